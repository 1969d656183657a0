#pragma once
#include <functional>
#include <vector>

#include "base/tensor.h"

namespace surgery {

/// x itself; `reached` is called when backward comes to it, before it goes into what x was made of.
at::Tensor mark_backward(const at::Tensor& x, std::function<void()> reached);

/// body(inputs), of which backward keeps the inputs alone: what the body makes on its way is made again in
/// backward, to the same bits. Parameters that the body uses get their gradients as ever, once a backward; an
/// input's gradients are summed within the body first.
/// `reached` (may be empty) is called before the body runs again. The inputs are floating point; the body
/// must be the same function both times, and live until backward is done.
at::Tensor recompute(std::function<at::Tensor(const std::vector<at::Tensor>& inputs)> body,
                     const std::vector<at::Tensor>& inputs, std::function<void()> reached = {});

}  // namespace surgery
