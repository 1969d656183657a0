#pragma once
#include "base/tensor.h"

namespace surgery {

/// uint8 [T, H, W, 3] -> float32 [1, 3, T, H, W] in [-1, 1] (x / 127.5 - 1, what Wan's VAE takes), same
/// device.
at::Tensor frames_to_video(const at::Tensor& frames);

/// [1, 3, T, H, W] or [3, T, H, W] in [-1, 1] (clamped) -> uint8 [T, H, W, 3], rounded to nearest, same
/// device.
at::Tensor video_to_frames(const at::Tensor& video);

}  // namespace surgery
