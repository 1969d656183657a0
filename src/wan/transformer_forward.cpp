#include <fmt/ranges.h>

#include "base/errors.h"
#include "base/linear.h"
#include "wan/block_autograd.h"
#include "wan/embeddings.h"
#include "wan/transformer.h"

namespace surgery {
namespace {

std::string block_name(int64_t block, const char* part) {
  return fmt::format("blocks.{}.{}", block, part);
}

void check_inputs(const TransformerConfig& config, const at::Tensor& hidden_states,
                  const at::Tensor& timestep, const at::Tensor& text) {
  VALIDATE(hidden_states.dim() == 5 && hidden_states.size(1) == config.in_channels,
           "hidden_states is [{}] (the transformer reads [batch, {}, frames, height, width]): give latents "
           "of that shape",
           fmt::join(hidden_states.sizes(), ", "), config.in_channels);
  for (size_t axis = 0; axis < 3; ++axis) {
    const int64_t size = hidden_states.size(static_cast<int64_t>(axis) + 2), patch = config.patch_size[axis];
    VALIDATE(size > 0 && size % patch == 0,
             "hidden_states is [{}] (its patches are {}): give sizes that are multiples of the patch",
             fmt::join(hidden_states.sizes(), ", "), fmt::join(config.patch_size, "x"));
    VALIDATE(size / patch <= config.rope_max_seq_len,
             "hidden_states is [{}] (at most {} patches along an axis have a position): give a smaller clip",
             fmt::join(hidden_states.sizes(), ", "), config.rope_max_seq_len);
  }
  VALIDATE(timestep.dim() == 1 && timestep.size(0) == hidden_states.size(0),
           "timestep is [{}] (one per sample of hidden_states is needed): give [{}]",
           fmt::join(timestep.sizes(), ", "), hidden_states.size(0));
  VALIDATE(
      !at::isReducedFloatingType(timestep.scalar_type()),
      "timestep is {} (998.39 would have become 1000, another noise level): give fp32, whatever the rest is",
      at::toString(timestep.scalar_type()));
  VALIDATE(
      text.dim() == 3 && text.size(0) == hidden_states.size(0) && text.size(1) > 0 &&
          text.size(2) == config.text_dim,
      "encoder_hidden_states is [{}] (one text of {}-vectors per sample is needed): give [{}, length, {}]",
      fmt::join(text.sizes(), ", "), config.text_dim, hidden_states.size(0), config.text_dim);
}

}  // namespace

/// What the timestep does to the blocks: the embedding itself (for the head) and the six vectors of mod6.
struct Transformer::Modulation {
  at::Tensor embedding;  ///< [B, D]
  at::Tensor six;        ///< [B, 6, D], fp32
};

const at::Tensor& Transformer::parameter(const std::string& name) const {
  const auto found = parameters_.find(name);
  EXPECT(found != parameters_.end());
  return found->second;
}

/// The parameters that hold a block's: all of them, or the block alone where it is streamed.
BlockStream::Block Transformer::block_weights(int64_t block) const {
  if (!stream_) return BlockStream::Block(BlockStream::Block(), &parameters_);
  return stream_->get(block, (block + 1) % config_.num_layers);
}

at::Tensor Transformer::linear(const TensorMap& weights, const std::string& name, const at::Tensor& x) const {
  const at::Tensor& weight = weights.at(name + ".weight");
  return surgery::linear(x.to(weight.scalar_type()), weight, weights.at(name + ".bias"));
}

/// LayerNorm(x) * (1 + scale) + shift over the last axis; x [B, L, D], scale and shift [B, 1, D] fp32.
/// Statistics, product and sum in fp32; as diffusers, rounded once to x's dtype.
at::Tensor Transformer::modulated_norm(const at::Tensor& x, const at::Tensor& scale,
                                       const at::Tensor& shift) const {
  const int64_t dim = x.size(2);
  const auto wide = x.to(shift.scalar_type());
  if (rounding_ == Rounding::wan && wide.scalar_type() != x.scalar_type())  // block 0: x is not fp32 yet
    return at::addcmul(shift, at::layer_norm(wide, {dim}, {}, {}, config_.eps).to(x.scalar_type()).to(wide),
                       scale + 1);
  // One sample: the modulation is the LayerNorm's own affine part, one pass over x instead of two.
  if (x.size(0) == 1)
    return at::layer_norm(wide, {dim}, (scale + 1).view({dim}), shift.reshape({dim}), config_.eps)
        .to(x.scalar_type());
  return at::addcmul(shift, at::layer_norm(wide, {dim}, {}, {}, config_.eps), scale + 1).to(x.scalar_type());
}

/// x + y * gate, in the gate's type (fp32); as diffusers, rounded once to x's.
at::Tensor Transformer::gated_sum(const at::Tensor& x, const at::Tensor& y, const at::Tensor& gate) const {
  const auto wide = gate.scalar_type();
  const at::Tensor sum = at::addcmul(x.to(wide), y.to(wide), gate);
  return rounding_ == Rounding::wan ? sum : sum.to(x.scalar_type());
}

/// RMSNorm over all heads' channels at once (before the split into heads), then the split: [B, L, D] -> [B,
/// L, H, d].
at::Tensor Transformer::norm_heads(const TensorMap& weights, const std::string& name,
                                   const at::Tensor& x) const {
  const at::Tensor& weight = weights.at(name + ".weight");
  const at::Tensor normed = weight.scalar_type() == x.scalar_type()
                                ? at::rms_norm(x, {config_.dim()}, weight, config_.eps)
                                : at::rms_norm(x, {config_.dim()}, {}, config_.eps) * weight;
  return normed.unflatten(2, {config_.num_attention_heads, config_.attention_head_dim});
}

Transformer::Modulation Transformer::embed_time(const at::Tensor& timestep) const {
  const std::string name = "condition_embedder.time_embedder.linear_";
  const auto sinusoid = timestep_sinusoid(timestep, config_.freq_dim);
  auto embedding = linear(parameters_, name + "2", at::silu(linear(parameters_, name + "1", sinusoid)));
  if (rounding_ == Rounding::diffusers) embedding = embedding.to(dtype());
  const auto six = linear(parameters_, "condition_embedder.time_proj", at::silu(embedding));
  return {embedding,
          six.unflatten(1, {6, config_.dim()}).to(at::promote_types(six.scalar_type(), at::kFloat))};
}

at::Tensor Transformer::embed_text(const at::Tensor& text) const {
  const std::string name = "condition_embedder.text_embedder.linear_";
  return linear(parameters_, name + "2", at::gelu(linear(parameters_, name + "1", text), "tanh"));
}

at::Tensor Transformer::self_attention(const TensorMap& weights, int64_t block, const at::Tensor& x,
                                       const at::Tensor& rope, const AttentionFunction* attention) const {
  const std::string name = block_name(block, "attn1.");
  const at::Tensor input = x.to(dtype());  // once for all three
  // [batch, heads, tokens, head_dim], views of [batch, tokens, heads, head_dim]
  const auto rotated = [&](const char* norm, const char* projection) {
    return apply_rope(norm_heads(weights, name + norm, linear(weights, name + projection, input)), rope)
        .to(dtype())
        .transpose(1, 2);
  };
  const auto q = rotated("norm_q", "to_q"), k = rotated("norm_k", "to_k");
  const auto v = linear(weights, name + "to_v", input)
                     .unflatten(2, {config_.num_attention_heads, config_.attention_head_dim})
                     .transpose(1, 2);
  at::Tensor o;
  if (attention) {
    o = (*attention)(block, q, k, v);
  } else if (!config_.hybrid || config_.hybrid->rates[static_cast<size_t>(block)].is_full()) {
    o = at::scaled_dot_product_attention(q, k, v);
  } else {
    o = hybrid_attention(q, k, v, phi_q(block), phi_k(block),
                         config_.hybrid->rates[static_cast<size_t>(block)], config_.hybrid->stabilizer,
                         max_gradient);
  }
  return o.transpose(1, 2).flatten(2);
}

at::Tensor Transformer::cross_attention(const TensorMap& weights, int64_t block, const at::Tensor& x,
                                        const at::Tensor& text) const {
  const std::string name = block_name(block, "attn2.");
  const auto normed = [&](const char* norm, const char* projection, const at::Tensor& of) {
    return norm_heads(weights, name + norm, linear(weights, name + projection, of))
        .to(dtype())
        .transpose(1, 2);
  };
  const auto q = normed("norm_q", "to_q", x), k = normed("norm_k", "to_k", text);
  const auto v = linear(weights, name + "to_v", text)
                     .unflatten(2, {config_.num_attention_heads, config_.attention_head_dim})
                     .transpose(1, 2);
  // No mask: the zero rows that pad the text are keys like any other, as in the teacher's training.
  const auto o = at::scaled_dot_product_attention(q, k, v);
  return linear(weights, name + "to_out.0", o.transpose(1, 2).flatten(2));
}

at::Tensor Transformer::feed_forward(const TensorMap& weights, int64_t block, const at::Tensor& x) const {
  return linear(weights, block_name(block, "ffn.net.2"),
                at::gelu(linear(weights, block_name(block, "ffn.net.0.proj"), x), "tanh"));
}

at::Tensor Transformer::block_forward(const TensorMap& weights, int64_t block, const at::Tensor& input,
                                      const at::Tensor& six, const at::Tensor& context,
                                      const at::Tensor& rope, const AttentionFunction* attention,
                                      bool until_attention) const {
  // shift, scale, gate of the self-attention, then of the feed-forward, each [B, 1, D]
  const auto m = (weights.at(block_name(block, "scale_shift_table")) + six).chunk(6, 1);
  const auto o = self_attention(weights, block, modulated_norm(input, m[1], m[0]), rope, attention);
  if (until_attention) return {};
  auto x = gated_sum(input, linear(weights, block_name(block, "attn1.to_out.0"), o), m[2]);

  at::Tensor normed = x;
  if (config_.cross_attn_norm) {
    const at::Tensor& weight = weights.at(block_name(block, "norm2.weight"));
    normed = at::layer_norm(x.to(weight.scalar_type()), {config_.dim()}, weight,
                            weights.at(block_name(block, "norm2.bias")), config_.eps)
                 .to(x.scalar_type());
  }
  x = x + cross_attention(weights, block, normed, context);
  return gated_sum(x, feed_forward(weights, block, modulated_norm(x, m[4], m[3])), m[5]);
}

/// A block with its hooks, and computed again in backward where that is asked for.
at::Tensor Transformer::trained_block(int64_t block, const at::Tensor& x, const at::Tensor& six,
                                      const at::Tensor& context, const at::Tensor& rope) const {
  const auto body = [this, block, rope](const std::vector<at::Tensor>& inputs) {
    return block_forward(parameters_, block, inputs[0], inputs[1], inputs[2], rope, nullptr, false);
  };
  std::function<void()> reached;
  if (hooks) {
    hooks->before_forward(block);
    reached = [told = hooks, block] { told->before_backward(block); };
  }
  at::Tensor result;
  const bool backward = at::GradMode::is_enabled() && (x.requires_grad() || six.requires_grad() ||
                                                       context.requires_grad() || trains_block(block));
  if (backward && recompute_every > 0 && block % recompute_every == 0) {
    result = recompute(body, {x, six, context}, reached);
  } else {
    result = body({x, six, context});
    if (backward && reached) result = mark_backward(result, reached);
  }
  if (hooks) hooks->after_forward(block);
  return result;
}

at::Tensor Transformer::head(const at::Tensor& x, const Modulation& time) const {
  const at::Tensor& table = parameter("scale_shift_table");
  const auto two = table + time.embedding.unsqueeze(1).to(table.scalar_type());
  return linear(parameters_, "proj_out", modulated_norm(x, two.slice(1, 1, 2), two.slice(1, 0, 1)));
}

at::Tensor Transformer::forward(const at::Tensor& hidden_states, const at::Tensor& timestep,
                                const at::Tensor& text, const AttentionFunction* attention,
                                int64_t last_block) const {
  check_inputs(config_, hidden_states, timestep, text);
  const bool trains = hooks || (at::GradMode::is_enabled() && recompute_every > 0);
  EXPECT(!trains || (!attention && last_block < 0 && !stream_));
  if (hooks) hooks->before_forward(config_.num_layers);
  const at::Tensor& patch_weight = parameter("patch_embedding.weight");
  const auto device = patch_weight.device();
  const auto dtype = patch_weight.scalar_type();
  const std::array<int64_t, 3> grid{hidden_states.size(2) / config_.patch_size[0],
                                    hidden_states.size(3) / config_.patch_size[1],
                                    hidden_states.size(4) / config_.patch_size[2]};
  const auto rope = rope_->get(grid, config_.attention_head_dim, device);
  const Modulation time = embed_time(timestep.to(device));
  const auto context = embed_text(text.to(device, dtype));

  auto x = at::linear(patchify(hidden_states.to(device, dtype), config_.patch_size), patch_weight.flatten(1),
                      parameter("patch_embedding.bias"));  // [B, tokens, D], the residual stream
  for (int64_t block = 0; block < config_.num_layers; ++block) {
    if (trains) {
      x = trained_block(block, x, time.six, context, rope);
      continue;
    }
    // A replay that ends early begins anew at the first block.
    const BlockStream::Block held =
        stream_ && block == last_block ? stream_->get(block, 0) : block_weights(block);
    x = block_forward(*held, block, x, time.six, context, rope, attention, block == last_block);
    if (block == last_block) return {};
  }
  return unpatchify(head(x, time), grid, config_.patch_size);
}

}  // namespace surgery
