#include "wan/flow.h"

namespace surgery {

double shifted_level(double u, double shift) {
  return shift * u / (1 + (shift - 1) * u);
}

FlowSample flow_sample(const at::Tensor& clip, const at::Tensor& noise, double sigma) {
  return {(1 - sigma) * clip + sigma * noise, noise - clip, 1000 * sigma};
}

}  // namespace surgery
