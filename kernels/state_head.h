// What surrounds WKV-7 in an RWKV-7 state head, fused: left to separate operators these cost as much as the
// core. Equations: arXiv 2503.14456 section 4.1, as in the official training code. On the CPU in float32 and
// float64; on CUDA in float32 and bfloat16, computed in float32, for heads of N = 64 and 128. All tensors of
// one dtype; differentiable in every tensor. The bits depend on nothing but the inputs.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

struct StateHeadInputs {
  at::Tensor log_decay, k, a, b;  // [B, T, H, N], the inputs of wkv7()
};

// Preparation, per head (all [B, T, H, N] unless said otherwise):
//   log_decay = -e^{-1/2} * sigmoid(decay_logit)
//   alpha     = sigmoid(rate_logit)                          in-context learning rate
//   kappa     = (k * removal) / max(|k * removal|_2, 1e-12)  removal key, normalised over the head
//   k'        = k * (1 + (alpha - 1) * replacement)          replacement key
//   a = -kappa,  b = kappa * alpha
// removal and replacement are [H, N].
StateHeadInputs prepare_state_head(const at::Tensor& decay_logit, const at::Tensor& rate_logit,
                                   const at::Tensor& k, const at::Tensor& removal,
                                   const at::Tensor& replacement);

// Epilogue, per head: y, r, k, v, gate [B, T, H, N] (k is the replacement key), bonus, weight, bias [H, N].
//   out = ( (y - mean) / sqrt(var + eps) * weight + bias  +  (sum_n r_n k_n bonus_n) v ) * gate
at::Tensor finish_state_head(const at::Tensor& y, const at::Tensor& r, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& gate, const at::Tensor& bonus,
                             const at::Tensor& weight, const at::Tensor& bias, double eps);

// Value residual: out = v + (first - v) * sigmoid(logit), all of one shape, on CUDA of a multiple of 8
// elements.
at::Tensor mix_values(const at::Tensor& v, const at::Tensor& first, const at::Tensor& logit);

}  // namespace wuneng::kernels
