#include "recipe/training_work.h"

#include "base/errors.h"

namespace surgery {

TrainingWork training_work(const CostGeometry& geometry, const FeatureMapConfig& phi,
                           const std::vector<Rate>& rates, int64_t clips, bool with_teacher) {
  EXPECT(std::ssize(rates) == geometry.blocks);
  const double whole = transformer_flops(geometry);
  const double softmax = attention_core_flops(geometry, phi, Rate::full());
  double core = 0;
  for (const Rate rate : rates) core += attention_core_flops(geometry, phi, rate);
  const auto count = static_cast<double>(clips);
  return {.tokens = count * static_cast<double>(geometry.tokens),
          .matrices = 3 * count * (whole - static_cast<double>(geometry.blocks) * softmax),
          .attention = 3 * count * core,
          .teacher = with_teacher ? count * whole : 0};
}

}  // namespace surgery
