// Normalisation over the last dimension. CPU, float32 and float64, forward and backward; statistics are kept,
// not normalised activations. Bits do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// y = x / sqrt(mean(x^2) + eps) * weight.  x [..., C], weight [C].
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

// y = (x - mean) / sqrt(var + eps) * weight + bias.  x [..., C], weight and bias [C].
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);

// RMS norm of each head by itself: x [..., H, N], weight [H, N].
at::Tensor head_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace wuneng::kernels
