#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace wuneng::kernels {

// One update of AdamW (arXiv 1711.05101, algorithm 2, with the decay outside of the schedule's multiplier).
struct AdamWStep {
  double lr, beta1, beta2, eps;
  double weight_decay;
  double scale;          // of the gradient, first
  std::int64_t updates;  // this one included
};

// All contiguous float32, of the same number of elements and on one device; value and the two moments are
// updated in place. On the CPU gradient is only read; on CUDA, where LibTorch's fused operator does it, it is
// left scaled. One pass. An element's bits depend on its own numbers alone: neither on threads nor on how
// many neighbours are handed over with it, so ranks may share the elements out at will. (LibTorch's fused
// operator on the CPU rounds the last few elements of a call in another way.)
void adamw(const at::Tensor& value, const at::Tensor& gradient, const at::Tensor& exp_avg,
           const at::Tensor& exp_avg_sq, const AdamWStep& step);

}  // namespace wuneng::kernels
