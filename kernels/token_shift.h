// Token shift (RWKV-7, arXiv 2503.14456 section 4.1): each token mixed with the one before it, per channel.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace wuneng::kernels {

// out_i = x_t + (x_{t-1} - x_t) * mix[i], for all mixes in one pass over x. On the CPU in float32 and
// float64; on CUDA in float32 and bfloat16, computed in float32, with C a multiple of 8 and M = 1 or 6.
//
//   x                [B, T, C], contiguous
//   mix              [M, C], M >= 1 interpolations (six for the time mix, one for the channel mix)
//   previous         [B, C], the token before each row's first one; undefined means zero
//   document_starts  as in wkv7.h: the token before a document's first one is zero
//
// Returns M tensors [B, T, C]. Differentiable in x, mix and previous; the bits depend on nothing but the
// inputs.
std::vector<at::Tensor> token_shift(const at::Tensor& x, const at::Tensor& mix,
                                    const at::Tensor& previous = {}, const at::Tensor& document_starts = {});

}  // namespace wuneng::kernels
