#pragma once

namespace surgery {

/// How a file names its tensors: as the original Wan2.1 does (ComfyUI too), or as diffusers and transformers
/// do, whose names are the ones inside this program.
enum class Naming { wan, diffusers };

}  // namespace surgery
