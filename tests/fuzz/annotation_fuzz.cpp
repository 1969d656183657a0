#include "data/manifest.h"
#include "memory_file.h"

/// An annotation's records; none leads out of its root, and each can be used.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace surgery;
  const MemoryFile file(data, size);
  return fuzz(data, size, [&](std::span<const std::byte>) {
    const std::filesystem::path root = "/root-of-videos";
    read_annotation(
        file.path(), root,
        [&](const ManifestRecord& record) {
          require(record.path.lexically_normal().string().starts_with(root.string() + "/"));
          require(!record.caption(RandomKey{1, 2}).empty());
          const ClipSpec spec = record.clip_spec({});
          require(spec.frames > 0);
        },
        [](const RejectedRecord& record) { require(!record.reason.empty()); });
  });
}
