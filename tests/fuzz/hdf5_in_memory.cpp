/// Hdf5Writer and Hdf5Reader without files, several times faster. hdf5_fuzz.cpp checks that the real ones
/// give back what was written, as these do.
#include "base/errors.h"
#include "hdf5_content.h"
#include "storage/hdf5_file.h"

namespace surgery {

std::map<std::filesystem::path, Hdf5Content>& hdf5_files() {
  static std::map<std::filesystem::path, Hdf5Content> files;
  return files;
}

struct Hdf5Writer::State {
  std::filesystem::path path;
  Hdf5Content content;
};

Hdf5Writer::Hdf5Writer(const std::filesystem::path& path, const std::string& format, int version)
    : state_(std::make_unique<State>(State{path, {{{"format", format}, {"format_version", version}}, {}}})) {}
Hdf5Writer::~Hdf5Writer() = default;

void Hdf5Writer::attribute(const std::string& name, const std::string& value) {
  VALIDATE(value.find('\0') == std::string::npos, "{} holds a NUL", name);
  EXPECT(state_->content.attributes.emplace(name, value).second);
}
void Hdf5Writer::attribute(const std::string& name, int64_t value) {
  EXPECT(state_->content.attributes.emplace(name, value).second);
}
void Hdf5Writer::attribute(const std::string& name, double value) {
  EXPECT(state_->content.attributes.emplace(name, value).second);
}
void Hdf5Writer::dataset(const std::string& name, const at::Tensor& tensor) {
  EXPECT(state_->content.datasets.emplace(name, tensor.contiguous().clone()).second);
}
void Hdf5Writer::text(const std::string& name, const std::string& utf8) {
  dataset(name,
          at::from_blob(const_cast<char*>(utf8.data()), {static_cast<int64_t>(utf8.size())}, at::kByte));
}
void Hdf5Writer::commit() {
  hdf5_files()[state_->path] = std::move(state_->content);
}

struct Hdf5Reader::State {
  Hdf5Content content;

  template <class T>
  const T& attribute(const std::string& name) const {
    const auto found = content.attributes.find(name);
    VALIDATE(found != content.attributes.end() && std::holds_alternative<T>(found->second), "no {}", name);
    return std::get<T>(found->second);
  }
  const at::Tensor& dataset(const std::string& name) const {
    const auto found = content.datasets.find(name);
    VALIDATE(found != content.datasets.end(), "no {}", name);
    return found->second;
  }
};

Hdf5Reader::Hdf5Reader(const std::filesystem::path& path, const std::string& format, int version, Verify)
    : state_(std::make_unique<State>(State{hdf5_files().at(path)})) {
  VALIDATE(attribute_text("format") == format && attribute_int("format_version") == version, "other format");
}
Hdf5Reader::~Hdf5Reader() = default;
Hdf5Reader::Hdf5Reader(Hdf5Reader&&) noexcept = default;

bool Hdf5Reader::has(const std::string& name) const {
  return state_->content.datasets.contains(name);
}
std::string Hdf5Reader::attribute_text(const std::string& name) const {
  return state_->attribute<std::string>(name);
}
int64_t Hdf5Reader::attribute_int(const std::string& name) const {
  return state_->attribute<int64_t>(name);
}
double Hdf5Reader::attribute_double(const std::string& name) const {
  return state_->attribute<double>(name);
}

// Every call gives memory of its own, so that AddressSanitizer sees where a tensor ends.
at::Tensor Hdf5Reader::dataset(const std::string& name) const {
  return state_->dataset(name).clone();
}
at::Tensor Hdf5Reader::rows(const std::string& name, int64_t begin, int64_t count) const {
  const at::Tensor& all = state_->dataset(name);
  VALIDATE(all.dim() > 0 && begin >= 0 && count >= 0 && begin <= all.size(0) && count <= all.size(0) - begin,
           "rows {} to {}", begin, begin + count);
  return all.slice(0, begin, begin + count).clone();
}
std::vector<int64_t> Hdf5Reader::shape(const std::string& name) const {
  return state_->dataset(name).sizes().vec();
}
std::string Hdf5Reader::text(const std::string& name) const {
  const at::Tensor& bytes = state_->dataset(name);
  VALIDATE(bytes.scalar_type() == at::kByte, "{} is not text", name);
  return {static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes()};
}

}  // namespace surgery
