#include "data/pixels.h"

#include <fmt/ranges.h>

#include "base/errors.h"

namespace surgery {

at::Tensor frames_to_video(const at::Tensor& frames) {
  VALIDATE(frames.dim() == 4 && frames.size(3) == 3 && frames.scalar_type() == at::kByte,
           "frames have shape {} and type {}: expected uint8 [T, H, W, 3]", fmt::join(frames.sizes(), "x"),
           c10::toString(frames.scalar_type()));
  return frames.permute({3, 0, 1, 2}).unsqueeze(0).to(at::kFloat).div_(127.5).sub_(1.0).contiguous();
}

at::Tensor video_to_frames(const at::Tensor& video) {
  at::Tensor clip = video.dim() == 5 && video.size(0) == 1 ? video[0] : video;
  VALIDATE(clip.dim() == 4 && clip.size(0) == 3, "video has shape {}: expected [1, 3, T, H, W]",
           fmt::join(video.sizes(), "x"));
  // nan has no pixel; it becomes black instead of whatever the cast makes of it
  clip = clip.detach().to(at::kFloat).nan_to_num(-1.0).clamp(-1.0, 1.0);
  return clip.permute({1, 2, 3, 0}).add(1.0).mul_(127.5).round_().to(at::kByte).contiguous();
}

}  // namespace surgery
