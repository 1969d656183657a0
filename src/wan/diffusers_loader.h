#pragma once

namespace surgery {

/// The Python file that loads a hybrid model into diffusers: src/wan/surgery_diffusers.py, taken in by the
/// build. It ships beside the weights of every hybrid model in the diffusers layout.
inline constexpr const char* kDiffusersLoaderName = "surgery_diffusers.py";
extern const char* const kDiffusersLoader;

}  // namespace surgery
