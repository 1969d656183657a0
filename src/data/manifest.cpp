#include "data/manifest.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "base/errors.h"
#include "base/text.h"
#include "data/annotation_handler.h"
#include "storage/atomic_file.h"

namespace surgery {

namespace {

std::string trim(std::string_view text) {
  return std::string(trimmed(text, " \t\r"));
}

void read_lines(const std::filesystem::path& listing, const std::function<void(ManifestRecord)>& accept,
                const std::function<void(RejectedRecord)>& reject) {
  constexpr size_t kMaxListingBytes = size_t{16} << 20;
  const std::string content = read_file(listing, kMaxListingBytes);
  VALIDATE(content.find('\0') == std::string::npos, "{}: is a binary file: expected lines ROOT,ANNOTATION",
           listing.string());
  const std::filesystem::path here = listing.parent_path();
  std::istringstream lines(content);
  std::string raw;
  for (int64_t number = 1; std::getline(lines, raw); ++number) {
    const std::string line = trim(raw);
    if (line.empty()) continue;
    const size_t comma = line.find(',');
    VALIDATE(
        comma != std::string::npos && line.find(',', comma + 1) == std::string::npos,
        "{}: line {} is not ROOT,ANNOTATION (exactly one comma; names cannot hold one): correct the line",
        listing.string(), number);
    const std::string root = trim(line.substr(0, comma)), annotation = trim(line.substr(comma + 1));
    VALIDATE(!annotation.empty(), "{}: line {} names no annotation: expected ROOT,ANNOTATION",
             listing.string(), number);
    read_annotation((here / annotation).lexically_normal(), (here / root).lexically_normal(), accept, reject);
  }
}

}  // namespace

const std::string& ManifestRecord::caption(RandomKey key) const {
  VALIDATE(!captions.empty(), "{}: has no caption", id);
  if (captions.size() == 1) return captions[0];
  return captions[static_cast<size_t>(
      RandomStream(key.with(id)).below(static_cast<int64_t>(captions.size())))];
}

ClipSpec ManifestRecord::clip_spec(ClipSpec base) const {
  base.cut = cut;
  base.crop = crop;
  return base;
}

void read_annotation(const std::filesystem::path& annotation, const std::filesystem::path& root,
                     const std::function<void(ManifestRecord)>& accept,
                     const std::function<void(RejectedRecord)>& reject) {
  const std::string suffix = annotation.extension().string();
  VALIDATE(suffix != ".pkl" && suffix != ".pickle",
           "{}: a pickle can run any program when it is read, so it is refused: convert it to JSON",
           annotation.string());
  std::error_code code;
  if (!std::filesystem::exists(annotation, code))
    fail_io("{}: no such annotation file: check the listing", annotation.string());
  VALIDATE(std::filesystem::is_regular_file(annotation, code),
           "{}: not a regular file: expected an annotation", annotation.string());
  std::ifstream file(annotation, std::ios::binary);
  if (!file) fail_io("{}: cannot be read: check its permissions", annotation.string());
  AnnotationHandler handler(annotation, root, accept, reject);
  nlohmann::json::sax_parse(file, &handler);
  if (file.bad()) fail_io("{}: reading failed: check the disk", annotation.string());
}

std::string reject_line(const RejectedRecord& record) {
  return one_line(record.where) + "\t" + one_line(record.reason) + "\n";
}

void stream_manifest(const std::filesystem::path& listing, const std::function<void(ManifestRecord)>& accept,
                     const std::function<void(RejectedRecord)>& reject) {
  std::error_code code;
  if (!std::filesystem::exists(listing, code))
    fail_io("{}: no such listing: check the path", listing.string());
  VALIDATE(std::filesystem::is_regular_file(listing, code), "{}: not a regular file: expected a listing",
           listing.string());
  if (listing.extension() == ".json" || listing.extension() == ".pkl")
    read_annotation(listing, listing.parent_path(), accept, reject);
  else
    read_lines(listing, accept, reject);
}

void fail_without_clips(const std::filesystem::path& listing, int64_t left_out, const RejectedRecord& first) {
  const std::string reason =
      left_out == 0 ? "it lists none"
                    : fmt::format("all {} are bad, the first: {}: {}", left_out, first.where, first.reason);
  fail_data("{}: no usable clip ({}): expected an annotation of captioned videos", listing.string(), reason);
}

Manifest read_manifest(const std::filesystem::path& listing) {
  Manifest manifest;
  stream_manifest(
      listing, [&](ManifestRecord record) { manifest.records.push_back(std::move(record)); },
      [&](RejectedRecord record) { manifest.rejected.push_back(std::move(record)); });
  if (manifest.records.empty())
    fail_without_clips(listing, std::ssize(manifest.rejected),
                       manifest.rejected.empty() ? RejectedRecord{} : manifest.rejected[0]);
  return manifest;
}

std::filesystem::path find_video(const std::filesystem::path& path) {
  std::error_code code;
  if (std::filesystem::exists(path, code)) return path;
  const std::string name = path.filename().string();
  for (const auto& [from, to] : {std::pair<std::string, std::string>{"_resize1080p", "_resize_1080p"},
                                 {"_resize_1080p", "_resize1080p"}}) {
    const size_t at = name.find(from);
    if (at == std::string::npos) continue;
    const auto sibling = path.parent_path() / (name.substr(0, at) + to + name.substr(at + from.size()));
    if (std::filesystem::exists(sibling, code)) return sibling;
  }
  return path;
}

}  // namespace surgery
