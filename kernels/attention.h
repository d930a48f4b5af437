// Causal softmax attention on the CPU, forward and backward, in float32 and float64.
//
//   y_t = sum_{s<=t} p_ts v_s,   p_t = softmax_{s<=t}(q_t . k_s / sqrt(N))
//
// LibTorch's operator makes its matrix products, which are small, by a library that packs the factors of each
// anew; here they are written for their sizes. The bits do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// Whether causal_attention takes q [B, T, H, N] and k [B, T, H_kv, N].
bool causal_attention_takes(const at::Tensor& q, const at::Tensor& k);

// q [B, T, H, N]; k, v [B, T, H_kv, N], each of which serves H / H_kv neighbouring heads of q; N of 32, 64 or
// 128; strides are free. Returns [B, T, H, N]. Keeps one number per token and head for the backward pass.
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);

}  // namespace wuneng::kernels
