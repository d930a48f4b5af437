// Normalisation over the last dimension, forward and backward. CPU, float32 and float64: statistics are kept,
// not normalised activations, and bits do not depend on the number of threads. CUDA, float32 and bfloat16:
// LibTorch's.
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
