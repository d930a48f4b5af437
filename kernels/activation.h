// Element-wise non-linearities. On the CPU, float32 and float64, they keep only their inputs for the backward
// pass; on CUDA, float32 and bfloat16, they are LibTorch's.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// silu(gate) * up, one shape (SwiGLU, arXiv 2002.05202).
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

// max(x, 0)^2 (RWKV's channel mix).
at::Tensor squared_relu(const at::Tensor& x);

}  // namespace wuneng::kernels
