#include <fstream>
#include <string_view>

#include "data/manifest.h"
#include "scratch.h"

namespace {

using namespace surgery;

/// Lines that are not blank.
int64_t count_lines(std::string_view text) {
  int64_t lines = 0;
  bool blank = true;
  for (const char c : text) {
    if (c == '\n') blank = true;
    if (blank && c != '\n' && c != ' ' && c != '\t' && c != '\r') {
      blank = false;
      ++lines;
    }
  }
  return lines;
}

}  // namespace

/// A listing beside an annotation, a.json, of one good record and one bad: each line that passes gives both.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::filesystem::path listing = [] {
    std::ofstream(scratch() / "a.json") << R"([{"path": "b/c.mp4", "cap": "d"}, {"path": "e.mp4"}])";
    return scratch() / "data.txt";
  }();
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::ofstream(listing, std::ios::binary) << text;
  return fuzz(data, size, [&](std::span<const std::byte>) {
    int64_t accepted = 0, rejected = 0;
    const auto accept = [&](const ManifestRecord& record) {
      require(record.path.is_absolute() && record.path.string().ends_with("/b/c.mp4") &&
              record.id == "b/c.mp4");
      ++accepted;
    };
    try {
      stream_manifest(listing, accept, [&](const RejectedRecord&) { ++rejected; });
    } catch (const Error& error) {
      require(accepted == rejected && accepted < count_lines(text));
      if (error.code() != ExitCode::io) throw;  // an annotation that is not there
      return;
    }
    require(accepted == count_lines(text) && rejected == accepted);
  });
}
