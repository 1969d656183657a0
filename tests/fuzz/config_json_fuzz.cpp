#include "fuzz.h"
#include "wan/text_encoder.h"
#include "wan/transformer.h"
#include "wan/vae.h"

namespace {

/// What passes says the same when it is written and read again.
template <class Config>
int read_config(const uint8_t* data, size_t size) {
  return surgery::fuzz(data, size, [](std::span<const std::byte> text) {
    const std::string json(reinterpret_cast<const char*>(text.data()), text.size());
    const std::string written = Config::from_json(json, "input").to_json();
    surgery::require(Config::from_json(written, "output").to_json() == written);
  });
}

}  // namespace

/// config.json of transformer, VAE and text encoder.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  read_config<VaeConfig>(data, size);
  read_config<TextEncoderConfig>(data, size);
  return read_config<TransformerConfig>(data, size);
}
