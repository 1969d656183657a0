#pragma once
#include <cstdint>
#include <filesystem>
#include <string>

#include "app/command.h"
#include "wan/weights_writer.h"

namespace surgery {

// What the commands that write a model (export, init) have in common.

/// --NAME: fp32, bf16 or fp16. Error{usage}.
at::ScalarType dtype_option(const CommandLine& options, const std::string& name,
                            const std::string& otherwise);
/// --shard-size in bytes; 5 GB, the hub's own, where it is not given. Error{usage}.
uint64_t shard_size_option(const CommandLine& options);
/// --output without a slash at its end.
std::filesystem::path output_option(const CommandLine& options);

enum class OutputKind { file, folder };
/// Error{usage} when something is there that would be overwritten; an empty folder gives way to a folder.
void check_output_is_new(const std::filesystem::path& output, OutputKind kind);

/// How VAE and text encoder lie beside the transformer in the original layout: safetensors instead of Python
/// pickles, with their sizes inside, since config.json is the transformer's.
SaveAs original_vae();
SaveAs original_text_encoder(const std::string& dtype_name);

}  // namespace surgery
