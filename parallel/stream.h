// The residual stream of a model over a tensor group, and the two places where a sharded block touches it.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// Between its blocks the stream is on every rank whole, or in parts: then rank r of R holds the r-th of R
// equal runs of every row's tokens (sequence parallelism, arXiv 2205.05198). Blocks always see all tokens.
class Stream {
 public:
  // [B, T, ...] below means T tokens, or T / R of them where the stream is in parts.
  Stream(Communicator& tensor_group, bool in_parts);

  bool in_parts() const { return in_parts_; }
  // Throws UsageError when the stream is in parts and R does not divide T.
  void check_length(std::int64_t tokens) const;

  // Into a block, whose heads are this rank's own. Backward sums the ranks' gradients.
  at::Tensor enter(const at::Tensor& x) const;  // [B, T, ...] -> [B, all T, ...]
  // Out of a block: the ranks' partial results are summed. Backward hands the gradient to all of them.
  at::Tensor leave(const at::Tensor& partial) const;  // [B, all T, ...] -> [B, T, ...]

  // Of what is the same on every rank: the tokens that the stream holds here. Not differentiable.
  at::Tensor here(const at::Tensor& whole) const;  // [B, all T, ...] -> [B, T, ...]

 private:
  Communicator* group_;
  bool in_parts_;
};

}  // namespace wuneng::parallel
