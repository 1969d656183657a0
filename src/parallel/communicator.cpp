#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>

namespace surgery {

std::string Communicator::broadcast_text(const std::string& text, int root) {
  at::Tensor length = at::tensor({static_cast<int64_t>(text.size())}, at::kLong);
  broadcast(length, root);
  at::Tensor bytes = at::zeros({length.item<int64_t>()}, at::kByte);
  if (rank() == root) std::memcpy(bytes.data_ptr(), text.data(), text.size());
  broadcast(bytes, root);
  return {static_cast<const char*>(bytes.const_data_ptr()), static_cast<size_t>(bytes.numel())};
}

std::vector<std::string> Communicator::gather_text(const std::string& text) {
  const at::Tensor length = at::tensor({static_cast<int64_t>(text.size())}, at::kLong);
  at::Tensor lengths = at::zeros({size()}, at::kLong);
  all_gather(length, lengths);
  const int64_t longest = lengths.max().item<int64_t>();
  at::Tensor mine = at::zeros({longest}, at::kByte);
  std::memcpy(mine.data_ptr(), text.data(), text.size());
  at::Tensor all = at::zeros({size() * longest}, at::kByte);
  all_gather(mine, all);
  std::vector<std::string> texts;
  for (int r = 0; r < size(); ++r)
    texts.emplace_back(static_cast<const char*>(all.const_data_ptr()) + r * longest,
                       static_cast<size_t>(lengths[r].item<int64_t>()));
  return texts;
}

double Communicator::all_reduce_value(double value, Reduction reduction) {
  at::Tensor tensor = at::tensor({value}, at::kDouble);
  all_reduce(tensor, reduction);
  return tensor.item<double>();
}

}  // namespace surgery
