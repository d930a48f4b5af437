#include "parallel/communicator.h"

#include <ATen/ops/empty.h>

namespace wuneng::parallel {

at::Tensor gathered(const at::Tensor& mine, Communicator& group) {
  std::vector<std::int64_t> shape = mine.sizes().vec();
  shape.insert(shape.begin(), group.size());
  at::Tensor all = at::empty(shape, mine.options());
  group.all_gather(mine.contiguous(), all);
  return all;
}

}  // namespace wuneng::parallel
