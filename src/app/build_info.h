#pragma once

namespace surgery {

/// What the binary was built from and with; filled in by the build.
struct BuildInfo {
  const char* version;
  const char* commit;  ///< "+changes" when tracked files differed from it
  const char* compiler;
  const char* build_type;
  const char* flags;
  const char* torch_folder;
  const char* sentencepiece;  ///< of its pkg-config file; the library does not tell its version
};
extern const BuildInfo build_info;

}  // namespace surgery
