#include "storage/atomic_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <utility>

#include "base/errors.h"
#include "base/log.h"

namespace surgery {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kTemporaryPrefix = ".tmp-";
constexpr auto kForeignTemporaryAge = std::chrono::hours(24);

std::string host_name() {
  char name[256] = "host";
  gethostname(name, sizeof name - 1);
  name[sizeof name - 1] = 0;
  std::string host(name);
  for (char& c : host)
    if (c == '-' || c == '/') c = '_';  // '-' separates the parts of a temporary's name
  return host;
}

std::string system_message() {
  return std::strerror(errno);
}

/// Host and process of ".tmp-HOST-PID-N-NAME"; pid 0 if `name` is not such a name.
std::pair<std::string, pid_t> owner_of(std::string_view name) {
  if (!name.starts_with(kTemporaryPrefix)) return {};
  name.remove_prefix(kTemporaryPrefix.size());
  const size_t dash = name.find('-');
  if (dash == std::string_view::npos) return {};
  const std::string host(name.substr(0, dash));
  name.remove_prefix(dash + 1);
  pid_t pid = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
  if (error != std::errc{} || end == name.data() + name.size() || *end != '-' || pid <= 0) return {};
  return {host, pid};
}

/// Out of readers' sight at once; a crash before the removal leaves a stale temporary, nothing that looks
/// whole.
fs::path hide_folder(const fs::path& folder) {
  const fs::path trash = temporary_name(folder);
  std::error_code error;
  fs::rename(folder, trash, error);
  if (error) fail_io("{}: cannot be removed: {}", folder.string(), error.message());
  return trash;
}

void remove_hidden(const fs::path& trash) {
  std::error_code error;
  fs::remove_all(trash, error);
  if (error) log_warning("{}: cannot be removed: {}", trash.string(), error.message());
}

}  // namespace

fs::path temporary_name(const fs::path& path) {
  static std::atomic<uint64_t> calls{0};
  return path.parent_path() / fmt::format("{}{}-{}-{}-{}", kTemporaryPrefix, host_name(), getpid(),
                                          calls.fetch_add(1), path.filename().string());
}

void sync_to_disk(const fs::path& path) {
  const fs::path target = path.empty() ? fs::path(".") : path;
  const int descriptor = ::open(target.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0)
    fail_io("{}: cannot be opened to flush it to disk: {}", target.string(), system_message());
  // Some file systems do not flush folders and say EINVAL: nothing more can be done there.
  const bool failed = ::fsync(descriptor) != 0 && errno != EINVAL;
  const std::string message = failed ? system_message() : "";
  ::close(descriptor);
  if (failed) fail_io("{}: flushing to disk failed ({}): check space and quota", target.string(), message);
}

void commit_file(const fs::path& temporary, const fs::path& path) {
  sync_to_disk(temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    fail_io("{}: cannot be renamed to {}: {}", temporary.string(), path.string(), system_message());
  sync_to_disk(path.parent_path());
}

AtomicFile::AtomicFile(const fs::path& path) : path_(path), temporary_(temporary_name(path)) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (descriptor_ < 0)
    fail_io("{}: cannot be written ({}): check that the folder exists and allows it", path.string(),
            system_message());
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0)
      fail_io("{}: writing failed ({}): check space and quota", path_.string(), system_message());
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::commit() {
  // Network file systems report a full disk only here.
  if (::close(std::exchange(descriptor_, -1)) != 0)
    fail_io("{}: closing failed ({}): check space and quota", path_.string(), system_message());
  commit_file(temporary_, path_);
  temporary_.clear();
}

void commit_folder(const fs::path& temporary, const fs::path& folder) {
  std::error_code error;
  for (auto entry = fs::recursive_directory_iterator(temporary, error);
       !error && entry != fs::recursive_directory_iterator(); entry.increment(error))
    sync_to_disk(entry->path());
  if (error) fail_io("{}: cannot be read: {}", temporary.string(), error.message());
  const fs::path replaced = fs::exists(folder) ? hide_folder(folder) : fs::path();
  commit_file(temporary, folder);
  if (!replaced.empty()) remove_hidden(replaced);
}

void remove_folder(const fs::path& folder) {
  remove_hidden(hide_folder(folder));
}

AtomicFolder::AtomicFolder(const fs::path& folder) : folder_(folder), temporary_(temporary_name(folder)) {
  std::error_code error;
  fs::create_directories(temporary_, error);
  if (error) fail_io("{}: cannot be made: {}", temporary_.string(), error.message());
}

AtomicFolder::~AtomicFolder() {
  std::error_code ignored;
  if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
}

void AtomicFolder::commit() {
  commit_folder(temporary_, folder_);
  temporary_.clear();
}

void write_file(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

std::string read_file(const fs::path& path, size_t limit_bytes) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail_io("{}: cannot be read: {}", path.string(), system_message());
  std::string content;
  char buffer[1 << 16];
  ssize_t count = 0;
  while ((count = ::read(descriptor, buffer, sizeof buffer)) != 0) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 || content.size() + static_cast<size_t>(count) > limit_bytes) break;
    content.append(buffer, static_cast<size_t>(count));
  }
  const std::string message = count < 0 ? system_message() : "";
  ::close(descriptor);
  if (count < 0) fail_io("{}: reading failed: {}", path.string(), message);
  if (count > 0) fail_io("{}: is larger than {} bytes: is this the right file?", path.string(), limit_bytes);
  return content;
}

void set_aside(const fs::path& path, const std::string& reason) {
  fs::path target = path;
  target += ".bad";
  for (int number = 1; fs::exists(fs::symlink_status(target)); ++number) {
    target = path;
    target += fmt::format(".bad.{}", number);
  }
  if (::rename(path.c_str(), target.c_str()) != 0)
    fail_io("{}: is damaged ({}) and cannot be set aside: {}", path.string(), reason, system_message());
  // Messages of readers begin with the file's name.
  const std::string name = path.string() + ": ";
  log_warning("{}{}: set aside as {}, will be made again", reason.starts_with(name) ? "" : name, reason,
              target.filename().string());
}

void remove_stale_temporaries(const fs::path& folder) {
  std::error_code error;
  const std::string here = host_name();
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    const auto [host, pid] = owner_of(entry.path().filename().string());
    if (pid == 0) continue;
    std::error_code ignored;
    const bool gone = host == here ? ::kill(pid, 0) != 0 && errno == ESRCH
                                   : fs::last_write_time(entry.path(), ignored) + kForeignTemporaryAge <
                                             fs::file_time_type::clock::now() &&
                                         !ignored;
    if (gone) fs::remove_all(entry.path(), ignored);
  }
}

}  // namespace surgery
