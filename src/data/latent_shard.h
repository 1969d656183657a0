#pragma once
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/tensor.h"
#include "data/video.h"

namespace surgery {

/// What makes latents and text rows usable with a model: two shards of equal space and geometry mix freely.
struct LatentSpace {
  std::string vae_hash, text_hash;  ///< content fingerprints of the VAE, and of text encoder + tokenizer
  std::vector<double> latents_mean, latents_std;  ///< per channel; already applied to the stored latents
  int64_t text_length = 512,
          text_dim = 4096;  ///< rows are stored without padding; this is what they are padded to
  bool operator==(const LatentSpace&) const = default;
};

struct ShardHeader {
  LatentSpace space;
  int64_t frames = 0, height = 0, width = 0;  ///< of the clips, in pixels
  double fps = 16;
  std::string source;       ///< where the clips came from, for a person
  std::string fingerprint;  ///< of everything the shard was made from; decides whether it is made again
};

struct LatentSample {
  at::Tensor latents;  ///< [channels, T, H, W], (z - mean) / std; stored as bf16
  at::Tensor text;     ///< [n, text_dim], the real rows; stored as bf16
  std::string prompt, id;
  double source_fps = 0, start_seconds = 0;
  int64_t source_height = 0, source_width = 0;
  Box crop;
};

/// Gathers samples of one shape and writes them as one HDF5 file (schema: `surgery-latents` 1), atomically.
class LatentShardWriter {
 public:
  LatentShardWriter(const std::filesystem::path& path, ShardHeader header);
  ~LatentShardWriter();
  /// Rounds to bf16 (nearest even). Throws Error{data} for a wrong shape or a value that is not finite.
  void add(const LatentSample& sample);
  int64_t size() const;
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// Reads a shard. Opening checks structure and header; a sample is checked against its own hash when it is
/// read, so a training run pays for what it touches. Full verification reads everything at once. Throws
/// Error{data} naming file and part. One object serves one thread.
class LatentShard {
 public:
  enum class Verify { header, full };
  explicit LatentShard(const std::filesystem::path& path, Verify verify = Verify::header);
  ~LatentShard();
  LatentShard(LatentShard&&) noexcept;
  const std::filesystem::path& path() const;
  const ShardHeader& header() const;
  int64_t size() const;
  std::vector<int64_t> latent_shape() const;  ///< [channels, T, H, W]; empty without samples
  LatentSample sample(int64_t index) const;   ///< tensors fp32, CPU

  /// Error{data} unless the shard was made with this VAE and text encoder; a mismatch trains on noise
  /// silently.
  void check_space(const LatentSpace& expected) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// NAME-00003-of-00086.h5
std::string shard_name(const std::string& name, int64_t index, int64_t count);
/// Error{data} where shards of one NAME and count are fewer than their count says. Files of other names are
/// passed over.
void require_whole_sets(const std::vector<std::filesystem::path>& shards);

/// Beside a shard, the clips that were left out of it, one `id<TAB>reason` a line:
/// NAME-00003-of-00086.rejects.txt
std::filesystem::path shard_rejects(std::filesystem::path shard);
/// How many clips that file names; 0 where there is none.
int64_t shard_rejected(const std::filesystem::path& shard);

/// All complete shards of a folder, sorted by name. Error{io} when there is no folder or none in it.
std::vector<std::filesystem::path> list_shards(const std::filesystem::path& folder);

}  // namespace surgery
