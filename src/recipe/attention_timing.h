#pragma once
#include "attention/cost_model.h"
#include "attention/hybrid.h"
#include "base/tensor.h"

namespace surgery {

/// Median milliseconds of one attention core (phi included) at the geometry, batch 1, on random inputs of
/// `dtype`, by the kernels that the transformer runs at this rate.
double time_attention(const CostGeometry& geometry, const FeatureMapConfig& phi, Rate rate,
                      Stabilizer stabilizer, at::Device device, at::ScalarType dtype);

}  // namespace surgery
