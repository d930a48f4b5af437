#include "parallel/stream.h"

#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/custom_function.h>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor same(const at::Tensor& tensor, Communicator&) { return tensor; }

at::Tensor summed(const at::Tensor& tensor, Communicator& group) {
  at::Tensor sum = tensor.contiguous().clone();
  group.all_reduce_sum(sum);
  return sum;
}

// [B, T / R, ...] of every rank -> [B, T, ...].
at::Tensor tokens_of_all(const at::Tensor& mine, Communicator& group) {
  return gathered(mine, group).movedim(0, 1).flatten(1, 2);
}

// [B, T, ...] -> [B, T / R, ...] of the sum over ranks.
at::Tensor summed_tokens(const at::Tensor& partial, Communicator& group) {
  const at::Tensor runs = partial.unflatten(1, {group.size(), -1}).movedim(1, 0).contiguous();
  at::Tensor mine = at::empty_like(runs[0]);
  group.reduce_scatter_sum(runs, mine);
  return mine;
}

using Collective = at::Tensor (*)(const at::Tensor&, Communicator&);

template <Collective on_values, Collective on_gradients>
struct Edge : torch::autograd::Function<Edge<on_values, on_gradients>> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, Communicator* group) {
    context->saved_data["group"] = reinterpret_cast<std::int64_t>(group);
    return on_values(x.view_as(x), *group);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    auto* group = reinterpret_cast<Communicator*>(context->saved_data["group"].toInt());
    return {on_gradients(gradients[0], *group), at::Tensor()};
  }
};

}  // namespace

Stream::Stream(Communicator& tensor_group, bool in_parts)
    : group_(&tensor_group), in_parts_(in_parts && tensor_group.size() > 1) {}

void Stream::check_length(std::int64_t tokens) const {
  WN_REQUIRE(!in_parts_ || tokens % group_->size() == 0,
             "parallel.sequence: {} tokens cannot be split over parallel.tensor = {} ranks", tokens,
             group_->size());
}

// The functions of a whole stream are Megatron-LM's f and g (arXiv 1909.08053).
at::Tensor Stream::enter(const at::Tensor& x) const {
  if (group_->size() == 1) return x;
  return in_parts_ ? Edge<tokens_of_all, summed_tokens>::apply(x, group_)
                   : Edge<same, summed>::apply(x, group_);
}

at::Tensor Stream::leave(const at::Tensor& partial) const {
  if (group_->size() == 1) return partial;
  return in_parts_ ? Edge<summed_tokens, tokens_of_all>::apply(partial, group_)
                   : Edge<summed, same>::apply(partial, group_);
}

at::Tensor Stream::here(const at::Tensor& whole) const {
  if (!in_parts_) return whole;
  const std::int64_t tokens = whole.size(1) / group_->size();
  return whole.narrow(1, group_->rank() * tokens, tokens);
}

}  // namespace wuneng::parallel
