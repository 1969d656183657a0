#include "fuzz.h"
#include "storage/pickle.h"

/// The pickle machine alone, which mutations of a whole archive seldom reach; any global may be named.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  return fuzz(data, size, [](std::span<const std::byte> bytes) {
    const Pickle pickle(bytes, "input", [](std::string_view, const std::string&) {});
    for (const Pickle::Index item : pickle.items(pickle.root())) {
      touch(std::as_bytes(std::span(pickle.text(item))));
      require(pickle.items(item).size() == pickle.size(item));
    }
  });
}
