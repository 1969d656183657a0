#include "storage/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/errors.h"

namespace surgery {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const std::shared_ptr<MappedFile> file(new MappedFile);
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_io("{}: cannot be read: {}", path.string(), std::strerror(errno));
  struct stat before {
  }, after{};
  const bool known = ::fstat(descriptor, &before) == 0 && S_ISREG(before.st_mode);
  const size_t size = known ? static_cast<size_t>(before.st_size) : 0;
  void* address =
      size == 0 ? nullptr
                : ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
  const int error = address == MAP_FAILED ? errno : 0;
  const bool changed = known && (::fstat(descriptor, &after) != 0 || after.st_size != before.st_size);
  ::close(descriptor);
  if (error != 0) fail_io("{}: cannot be mapped: {}", path.string(), std::strerror(error));
  file->data_ = static_cast<std::byte*>(address);
  file->size_ = size;
  if (!known) fail_io("{}: is not a regular file: name a file of weights", path.string());
  if (changed) fail_io("{}: changed its size while it was opened: wait until it is written", path.string());
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

}  // namespace surgery
