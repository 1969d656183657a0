#pragma once
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "data/manifest.h"

namespace surgery {

/// Turns the events of a JSON parser into manifest records, holding one record at a time. A wrong value
/// spoils its record, not the file; the file fails only where it is not an array of objects in well-formed
/// JSON.
class AnnotationHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  AnnotationHandler(std::filesystem::path annotation, std::filesystem::path root,
                    const std::function<void(ManifestRecord)>& accept,
                    const std::function<void(RejectedRecord)>& reject);

  bool null() override;
  bool boolean(bool value) override;
  bool number_integer(number_integer_t value) override;
  bool number_unsigned(number_unsigned_t value) override;
  bool number_float(number_float_t value, const string_t& text) override;
  bool string(string_t& value) override;
  bool binary(binary_t& value) override;
  bool start_object(size_t elements) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(size_t elements) override;
  bool end_array() override;
  bool parse_error(size_t position, const std::string& token,
                   const nlohmann::detail::exception& error) override;

 private:
  enum class Field {
    ignored,
    path,
    caption,
    fps,
    duration,
    frames,
    height,
    width,
    resolution,
    cut,
    frame_index,
    crop,
    aesthetic
  };

  void spoil(const std::string& reason);
  bool number(double value);
  bool scalar(const char* kind);
  void finish_record();
  void place_path();
  void take_cut(const std::vector<double>& numbers, const char* name);
  void take_frame_index(const std::string& value);
  void take_crop();
  std::string where() const;

  std::filesystem::path annotation_, root_;
  const std::function<void(ManifestRecord)>& accept_;
  const std::function<void(RejectedRecord)>& reject_;
  int64_t depth_ = 0;   // open arrays and objects
  int64_t record_ = 0;  // number of the record being read, from 1
  Field field_ = Field::ignored;
  bool in_resolution_ = false;
  std::set<Field> seen_;
  std::vector<double> numbers_;
  std::string frame_index_, reason_;
  ManifestRecord current_;
};

}  // namespace surgery
