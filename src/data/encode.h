#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "data/clip_listing.h"
#include "data/latent_shard.h"
#include "wan/vae.h"

namespace surgery {

/// One clip to be encoded. `load` may read a file or draw the frames; it throws Error{data} for a clip that
/// is bad.
struct EncodeClip {
  std::string id, caption;
  ClipSpec spec;
  std::function<Clip()> load;
  std::string fingerprint;  ///< changes when the frames would
};

/// A record's clip at the verdict's shape, its caption drawn by `captions`. The fingerprint is the file's
/// name, size, window, and the filters. An annotation may be wrong: filters are asked again with what the
/// decoder finds.
EncodeClip encode_clip(const ManifestRecord& record, const std::shared_ptr<const ClipRules>& rules,
                       const ClipVerdict& verdict, RandomKey captions);

/// The space of a VAE's normalised latents; mean 0 and deviation 1 where its configuration names none.
LatentSpace latent_space(const VaeConfig& vae, const std::string& vae_hash, const std::string& text_hash,
                         int64_t text_length, int64_t text_dim);

struct EncodeOptions {
  std::filesystem::path folder;  ///< made if absent
  std::string name = "latents";  ///< shards are NAME-00000-of-00012.h5
  std::string source;            ///< told in each shard
  std::string settings;          ///< of the VAE, where they change the latents; part of the fingerprint
  int64_t samples_per_shard = 64;
};

/// One unit of work: independent of all others, done when its file is committed.
struct ShardPlan {
  std::filesystem::path path;
  ShardHeader header;
  std::vector<EncodeClip> clips;
};

/// Cuts the clips, grouped by shape and in their order, into shards. The same input gives the same plan.
std::vector<ShardPlan> plan_shards(std::vector<EncodeClip> clips, const LatentSpace& space,
                                   const EncodeOptions& options);

/// True when the shard exists, is whole, and was made from the same things. A damaged or differing one is set
/// aside (so exactly one process may ask per shard).
bool shard_complete(const ShardPlan& plan);

enum class EncodeStatus { made, reused, stopped };
struct EncodeResult {
  EncodeStatus status = EncodeStatus::made;
  int64_t samples = 0;
  std::vector<RejectedRecord> rejected;
};

/// Lists clips beside a shard that was made without them (shard_rejects); removes an earlier list where there
/// are none.
void write_rejects(const std::filesystem::path& shard, const std::vector<RejectedRecord>& rejected);

/// Prompt -> rows [n, text_dim].
using EmbedPrompt = std::function<at::Tensor(const std::string& prompt)>;

/// Makes one shard unless it is complete: posterior mean of each clip, normalised, with its caption's rows.
/// Bad clips are warned of, listed in the rejects file and skipped; failures of this machine (Error{io},
/// memory) are not the clip's fault and are thrown. `stop` is asked between clips; a stopped shard leaves
/// nothing.
EncodeResult encode_shard(const ShardPlan& plan, const Vae& vae, const EmbedPrompt& embed,
                          const std::function<bool()>& stop = {});

}  // namespace surgery
