#include "base/errors.h"
#include "parallel/nccl_communicator.h"

namespace surgery {

bool has_nccl() {
  return false;
}

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, at::Device) {
  fail_usage("this program was built without NCCL: build it with -DSURGERY_CUDA=ON");
}

}  // namespace surgery
