// The two places where a sharded block touches its tensor group, as autograd functions (Megatron-LM's f and
// g, arXiv 1909.08053).
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// Into the block: every rank has the same x and uses it for its own heads. Backward sums the ranks'
// gradients.
at::Tensor enter_shards(const at::Tensor& x, Communicator& tensor_group);

// Out of the block: the ranks' partial results are summed. Backward passes the gradient on unchanged.
at::Tensor leave_shards(const at::Tensor& partial, Communicator& tensor_group);

}  // namespace wuneng::parallel
