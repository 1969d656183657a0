#pragma once
#include <functional>

#include "base/tensor.h"
#include "wan/vae.h"

namespace surgery {

/// `part` of every tile of x [B, C, T, H, W], joined. `from` are the tiles in rows and columns of x, `to` the
/// same ones in those of the result. A tile is mixed linearly into the one above it and then into the one to
/// its left, where they overlap. One tile and the overlaps of a row of them are held beside x and the result.
/// Source: diffusers' AutoencoderKLWan.tiled_encode and tiled_decode.
at::Tensor blended_tiles(const at::Tensor& x, const VaeTiling& from, const VaeTiling& to,
                         const std::function<at::Tensor(const at::Tensor&)>& part);

}  // namespace surgery
