#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/encode.h"
#include "data/latent_shard.h"

namespace surgery {

/// Frames a second of the published sets: Wan2.1's own.
inline constexpr double kWebDatasetFps = 16;

/// Whether a name of data.videos means tar shards: a folder, or one .tar.
bool is_web_dataset(const std::filesystem::path& place);

/// The .tar files of a folder, sorted by name (what is still being written, NAME.tar.tmp, is not among them),
/// or the one that is named. Error{io} where there is none.
std::vector<std::filesystem::path> list_web_shards(const std::filesystem::path& place);

/// A tar shard as a whole among what is left out.
RejectedRecord bad_shard(const std::filesystem::path& tar, const std::string& reason);

/// One tar shard of a WebDataset, mapped: its samples are contiguous members whose names agree up to the
/// first dot, `KEY.latent.pt`, `KEY.embed.pt` (both also .pth) and `KEY.prompt.txt`; others are passed over.
/// (Source: webdataset's key rule; rCM's build_synthetic_dataset.py.)
class WebShard {
 public:
  /// Reads the headers alone. Of a damaged archive the samples before the fault are there. Error{io};
  /// Error{data} for a whole one without such samples, and one of videos.
  explicit WebShard(const std::filesystem::path& path);
  ~WebShard();
  WebShard(WebShard&&) noexcept;
  int64_t size() const;
  const std::string& fault() const;  ///< what is wrong with the archive behind its samples; empty: nothing
  const std::string& key(int64_t index) const;
  std::string id(int64_t index) const;  ///< "shard_000003.tar/000000768"

  /// The sample, its latents as they are (normalised already, [channels, T, H, W], bf16, fp16 or fp32) and
  /// its text rows without the zero rows behind the last real one. Error{data} that says what is wrong with
  /// it: a member that is missing or twice there, a damaged tensor, a dtype or shape other than
  /// `latent_shape` and `space` say, numbers that are not finite, no text row that is not zero, a prompt that
  /// is not UTF-8.
  LatentSample sample(int64_t index, const std::vector<int64_t>& latent_shape,
                      const LatentSpace& space) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// One unit of work: a tar shard becomes a latent shard.
struct WebPlan {
  std::filesystem::path tar;
  int64_t samples = 0;                ///< taken from its beginning; 0 = all
  std::vector<int64_t> latent_shape;  ///< [channels, T, H, W] of this run's clips
};

/// The shards from which `count` samples come (0 = all), in order; the last one may give a part of its.
std::vector<WebPlan> plan_web_shards(const std::filesystem::path& place, int64_t count);

/// Goes through the samples of one tar shard: `take` is given those that can be used, the others are in the
/// result with their reasons, a damaged archive as a whole too. Error{data} where the latents as a whole are
/// a VAE's output that was not normalised (latent_statistics.h). `stop` is asked between samples.
EncodeResult read_web_shard(const WebPlan& web, const LatentSpace& space,
                            const std::function<void(LatentSample)>& take,
                            const std::function<bool()>& stop = {});
/// Makes the latent shard of one tar shard; what cannot be used is listed in the rejects file. A stopped
/// shard leaves nothing.
EncodeResult convert_web_shard(const WebPlan& web, const ShardPlan& plan,
                               const std::function<bool()>& stop = {});

}  // namespace surgery
