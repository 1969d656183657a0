#pragma once
#include <cstdlib>
#include <filesystem>

#include "fuzz.h"

namespace surgery {

/// A folder in memory, removed at the end.
inline const std::filesystem::path& scratch() {
  struct Folder {
    Folder() {
      char name[] = "/dev/shm/surgery-fuzz-XXXXXX";
      require(mkdtemp(name) != nullptr);
      path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::filesystem::path path;
  };
  static const Folder folder;
  return folder.path;
}

}  // namespace surgery
