// Rotary position embedding (arXiv 2104.09864), halves convention as in Llama: channel i is paired with i +
// N/2.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// x [B, T, H, N], N even; token t of every row sits at position (first_position + t) * step.
// angle of pair i = position * base^(-2i/N), computed in float64. Differentiable in x. CPU (float32, float64)
// or CUDA (float32, bfloat16).
at::Tensor rope(const at::Tensor& x, std::int64_t first_position, double base, double step = 1.0);

}  // namespace wuneng::kernels
