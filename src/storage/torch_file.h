#pragma once
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "storage/dtype.h"

namespace surgery {

/// A tensor of a torch.save archive: a view of a storage, which other tensors may share.
struct TorchEntry {
  DType dtype = DType::f32;
  std::vector<int64_t> shape, strides;  ///< strides in elements, as many as extents
  uint64_t begin = 0, end = 0;          ///< bytes of the file from its first element to behind its last
};

struct TorchContent {
  std::map<std::string, TorchEntry> entries;
  std::map<std::string, std::string> metadata;  ///< plain values beside the tensors ("epoch"), as text
  std::string key;  ///< of the one top-level entry that holds the tensors; empty when they lie at the top
};

/// Whether a file that begins with these bytes (all, or at least 32) was written by torch.save, in today's
/// zip format or that from before torch 1.6; whoever reads it says whether it is sound.
bool is_torch_file(std::span<const std::byte> head);

/// Reads and checks the state dict of a torch.save archive that lies in memory whole: a zip archive
/// (zip_archive.h) whose data.pkl is a dict of tensors, or holds exactly one such dict beside things that are
/// no tensors. Only OrderedDict, _rebuild_tensor_v2, _rebuild_parameter and the storages of the dtypes above
/// may be named in it; nothing is ever called. Every tensor lies within its storage and has no more elements
/// than it (so that reading one allocates no more than the file holds); every storage is a record of exactly
/// its size. `where` begins messages. Throws Error{data}. (Source: torch/serialization.py and
/// torch/_utils.py.)
TorchContent read_torch_content(std::span<const std::byte> file, const std::string& where);

/// The same of an archive that holds one tensor alone, as torch.save(tensor, ...) writes it.
TorchEntry read_torch_tensor(std::span<const std::byte> file, const std::string& where);

/// One torch.save archive (.pth, .pt, .bin), mapped read-only and checked as above. Does not depend on
/// LibTorch. Throws Error{data} for a damaged or foreign file, Error{io} for an unreadable one.
class TorchFile {
 public:
  static std::shared_ptr<const TorchFile> open(const std::filesystem::path& path);
  const std::filesystem::path& path() const;
  const std::map<std::string, TorchEntry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  const std::string& key() const;
  std::span<const std::byte> bytes(const std::string& name) const;  ///< in the mapping; may be unaligned
  ~TorchFile();

 private:
  TorchFile();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace surgery
