#include "data/annotation_handler.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/errors.h"
#include "data/video_suffixes.h"

namespace surgery {

namespace {

constexpr int64_t kRecordDepth = 2;  // array, object
constexpr double kMaxCount = 1e12;

bool is_whole(double value) {
  return std::abs(value) <= kMaxCount && std::floor(value) == value;
}

}  // namespace

AnnotationHandler::AnnotationHandler(std::filesystem::path annotation, std::filesystem::path root,
                                     const std::function<void(ManifestRecord)>& accept,
                                     const std::function<void(RejectedRecord)>& reject)
    : annotation_(std::move(annotation)), root_(std::move(root)), accept_(accept), reject_(reject) {}

std::string AnnotationHandler::where() const {
  const std::string place = fmt::format("{} record {}", annotation_.string(), record_);
  return current_.id.empty() ? place : fmt::format("{} ({})", place, current_.id);
}

void AnnotationHandler::spoil(const std::string& reason) {
  if (reason_.empty()) reason_ = reason;  // the first one tells most
}

/// A value that no field takes as it is.
bool AnnotationHandler::scalar(const char* kind) {
  VALIDATE(depth_ > 0, "{}: is one {}: expected a JSON array of records", annotation_.string(), kind);
  if (depth_ == 1) {
    ++record_;
    reject_({where(), fmt::format("is a {}: expected an object", kind)});
    return true;
  }
  switch (field_) {
    case Field::ignored:
      break;
    case Field::path:
      spoil(fmt::format("path is a {}: expected a string", kind));
      break;
    case Field::caption:
      spoil(fmt::format("cap holds a {}: expected a string or a list of strings", kind));
      break;
    case Field::frame_index:
      spoil(fmt::format("frame_idx is a {}: expected \"start:end\"", kind));
      break;
    default:
      spoil(fmt::format("a number, a list of numbers or height and width was expected, not a {}", kind));
      break;
  }
  return true;
}

bool AnnotationHandler::null() {
  // Exporters write null for what they do not know.
  const bool optional = depth_ == kRecordDepth && field_ != Field::path && field_ != Field::caption;
  return optional ? true : scalar("null");
}
bool AnnotationHandler::boolean(bool) {
  return scalar("boolean");
}
bool AnnotationHandler::binary(binary_t&) {
  return scalar("binary value");
}
bool AnnotationHandler::number_integer(number_integer_t value) {
  return number(static_cast<double>(value));
}
bool AnnotationHandler::number_unsigned(number_unsigned_t value) {
  return number(static_cast<double>(value));
}
bool AnnotationHandler::number_float(number_float_t value, const string_t&) {
  return number(value);
}

bool AnnotationHandler::number(double value) {
  const bool plain = depth_ == kRecordDepth;
  switch (field_) {
    case Field::fps:
      if (!plain || !(value > 0 && value <= 1000))
        spoil(fmt::format("fps is {}: expected 0 < fps <= 1000", value));
      current_.fps = value;
      return true;
    case Field::duration:
      if (!plain || !(value > 0 && value <= kMaxCount))
        spoil(fmt::format("duration is {}: expected seconds above 0", value));
      current_.duration_seconds = value;
      return true;
    case Field::aesthetic:
      if (!plain) return scalar("list");
      current_.aesthetic = value;
      return true;
    case Field::frames:
    case Field::height:
    case Field::width: {
      if (!is_whole(value) || value < 1) {
        const char* name = field_ == Field::frames   ? "num_frames"
                           : field_ == Field::height ? "height"
                                                     : "width";
        spoil(fmt::format("{} is {}: expected a whole number above 0", name, value));
        return true;
      }
      int64_t& target = field_ == Field::frames   ? current_.frames
                        : field_ == Field::height ? current_.height
                                                  : current_.width;
      target = static_cast<int64_t>(value);
      return true;
    }
    case Field::cut:
    case Field::crop:
      if (depth_ != kRecordDepth + 1) return scalar("number");
      if (numbers_.size() < 8) numbers_.push_back(value);  // more is wrong anyway, and not to be gathered
      return true;
    default:
      return scalar("number");
  }
}

bool AnnotationHandler::string(string_t& value) {
  if (depth_ < kRecordDepth) return scalar("string");
  switch (field_) {
    case Field::path:
      if (depth_ != kRecordDepth) return scalar("list");
      current_.id = value;
      return true;
    case Field::caption:
      if (depth_ > kRecordDepth + 1) return scalar("nested list");
      if (value.find_first_not_of(" \t\r\n") != std::string::npos) current_.captions.push_back(value);
      return true;
    case Field::frame_index:
      if (depth_ != kRecordDepth) return scalar("list");
      frame_index_ = value;
      return true;
    default:
      return scalar("string");
  }
}

bool AnnotationHandler::start_object(size_t) {
  VALIDATE(depth_ > 0, "{}: is one JSON object: expected an array of records", annotation_.string());
  if (++depth_ == kRecordDepth) {
    ++record_;
    current_ = {};
    seen_.clear();
    numbers_.clear();
    frame_index_.clear();
    reason_.clear();
    field_ = Field::ignored;
  } else if (depth_ == kRecordDepth + 1 && field_ == Field::resolution) {
    in_resolution_ = true;
  } else if (field_ != Field::ignored) {
    scalar("object");
    field_ = Field::ignored;
  }
  return true;
}

bool AnnotationHandler::key(string_t& name) {
  static const std::map<std::string, Field> fields{
      {"path", Field::path},         {"video", Field::path},
      {"video_path", Field::path},   {"file_name", Field::path},
      {"cap", Field::caption},       {"caption", Field::caption},
      {"prompt", Field::caption},    {"text", Field::caption},
      {"fps", Field::fps},           {"num_frames", Field::frames},
      {"duration", Field::duration}, {"resolution", Field::resolution},
      {"cut", Field::cut},           {"frame_idx", Field::frame_index},
      {"crop", Field::crop},         {"aesthetic", Field::aesthetic},
      {"aes", Field::aesthetic}};
  if (depth_ == kRecordDepth) {
    const auto found = fields.find(name);
    field_ = found == fields.end() ? Field::ignored : found->second;
  } else if (depth_ == kRecordDepth + 1 && in_resolution_) {
    field_ = name == "height" ? Field::height : name == "width" ? Field::width : Field::ignored;
  } else {
    return true;
  }
  if (field_ != Field::ignored && !seen_.insert(field_).second)
    spoil(fmt::format("{} (or another name of it) stands twice: keep one", name));
  return true;
}

bool AnnotationHandler::end_object() {
  --depth_;
  if (depth_ <= kRecordDepth) in_resolution_ = false;
  if (depth_ == kRecordDepth - 1) finish_record();
  return true;
}

bool AnnotationHandler::start_array(size_t) {
  if (++depth_ <= 1) return true;
  if (depth_ == kRecordDepth) {  // a list where a record belongs: its content is skipped with it
    ++record_;
    current_ = {};
    reason_.clear();
    field_ = Field::ignored;
    reject_({where(), "is a list: expected an object"});
  } else if (depth_ == kRecordDepth + 1 && (field_ == Field::cut || field_ == Field::crop)) {
    numbers_.clear();
  } else if (!(depth_ == kRecordDepth + 1 && field_ == Field::caption) && field_ != Field::ignored) {
    scalar("list");
    field_ = Field::ignored;
  }
  return true;
}

bool AnnotationHandler::end_array() {
  if (--depth_ != kRecordDepth) return true;
  if (field_ == Field::cut) take_cut(numbers_, "cut");
  if (field_ == Field::crop) take_crop();
  return true;
}

bool AnnotationHandler::parse_error(size_t position, const std::string&,
                                    const nlohmann::detail::exception& error) {
  fail_data("{}: not well-formed JSON at byte {}, in record {} ({}): repair or fetch the file again",
            annotation_.string(), position, record_, error.what());
}

void AnnotationHandler::take_cut(const std::vector<double>& numbers, const char* name) {
  const bool whole = numbers.size() == 2 && is_whole(numbers[0]) && is_whole(numbers[1]);
  if (!whole || numbers[0] < 0 || numbers[1] <= numbers[0])
    return spoil(fmt::format("{} is [{}]: expected [start, end] with 0 <= start < end, in frames", name,
                             fmt::join(numbers.begin(), numbers.end(), ", ")));
  current_.cut = FrameRange{static_cast<int64_t>(numbers[0]), static_cast<int64_t>(numbers[1])};
}

void AnnotationHandler::take_frame_index(const std::string& value) {
  const size_t colon = value.find(':');
  std::vector<double> numbers;
  if (colon != std::string::npos && value.size() < 40)
    for (const std::string& part : {value.substr(0, colon), value.substr(colon + 1)})
      if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos)
        numbers.push_back(std::stod(part));
  if (numbers.size() != 2) return spoil(fmt::format("frame_idx is \"{}\": expected \"start:end\"", value));
  take_cut(numbers, "frame_idx");
}

void AnnotationHandler::take_crop() {
  const auto& n = numbers_;
  const bool whole = n.size() == 4 && is_whole(n[0]) && is_whole(n[1]) && is_whole(n[2]) && is_whole(n[3]);
  if (!whole || n[0] < 0 || n[2] < 0 || n[1] <= n[0] || n[3] <= n[2])
    return spoil(fmt::format("crop is [{}]: expected [x0, x1, y0, y1] with x0 < x1 and y0 < y1",
                             fmt::join(n.begin(), n.end(), ", ")));
  current_.crop = Box{static_cast<int64_t>(n[0]), static_cast<int64_t>(n[1]), static_cast<int64_t>(n[2]),
                      static_cast<int64_t>(n[3])};
}

/// Joins the record's path to the root; an annotation must not reach files outside of it.
void AnnotationHandler::place_path() {
  if (current_.id.empty()) return spoil("path is missing: expected the video's name");
  if (current_.id.find('\0') != std::string::npos) return spoil("path holds a NUL character");
  const std::filesystem::path relative(current_.id);
  const std::filesystem::path normal = relative.lexically_normal();
  if (relative.is_absolute() || normal.empty() || *normal.begin() == "..")
    return spoil(
        "path leads outside its root (an annotation may only name files under it): make it relative");
  if (!is_video_name(relative.filename().string()))
    return spoil(fmt::format("'{}' is no kind of video that is read: expected {}",
                             relative.extension().string(), fmt::join(kVideoSuffixes, ", ")));
  current_.path = root_ / normal;
}

void AnnotationHandler::finish_record() {
  if (!frame_index_.empty() && !current_.cut) take_frame_index(frame_index_);
  place_path();
  if (current_.captions.empty()) spoil("cap is missing or blank: every clip needs a caption");
  if (reason_.empty())
    accept_(std::move(current_));
  else
    reject_({where(), reason_});
  current_ = {};
}

}  // namespace surgery
