#include "storage/torch_file.h"

#include "base/errors.h"
#include "storage/mapped_file.h"

namespace surgery {

namespace fs = std::filesystem;

struct TorchFile::State {
  fs::path path;
  std::shared_ptr<const MappedFile> file;
  TorchContent content;
};

TorchFile::TorchFile() : state_(std::make_unique<State>()) {}
TorchFile::~TorchFile() = default;

std::shared_ptr<const TorchFile> TorchFile::open(const fs::path& path) {
  std::shared_ptr<TorchFile> result(new TorchFile);
  result->state_->path = path;
  result->state_->file = MappedFile::open(path);
  result->state_->content = read_torch_content(result->state_->file->bytes(), path.string());
  return result;
}

const fs::path& TorchFile::path() const {
  return state_->path;
}
const std::map<std::string, TorchEntry>& TorchFile::entries() const {
  return state_->content.entries;
}
const std::map<std::string, std::string>& TorchFile::metadata() const {
  return state_->content.metadata;
}
const std::string& TorchFile::key() const {
  return state_->content.key;
}

std::span<const std::byte> TorchFile::bytes(const std::string& name) const {
  const auto entry = entries().find(name);
  VALIDATE(entry != entries().end(),
           "{}: tensor \"{}\" is missing (incomplete or foreign file): check the model",
           state_->path.string(), name);
  return state_->file->bytes().subspan(entry->second.begin, entry->second.end - entry->second.begin);
}

}  // namespace surgery
