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
          require(record.fps >= 0 && record.duration_seconds >= 0);
          require(record.frames >= 0 && record.height >= 0 && record.width >= 0);
          const ClipSpec spec = record.clip_spec({});
          require(!spec.cut || (0 <= spec.cut->begin && spec.cut->begin < spec.cut->end));
          require(!spec.crop || (0 <= spec.crop->x0 && 0 <= spec.crop->y0));
          require(!spec.crop || (spec.crop->width() > 0 && spec.crop->height() > 0));
        },
        [](const RejectedRecord& record) { require(!record.reason.empty()); });
  });
}
