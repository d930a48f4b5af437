// The chunked algorithm of kernels/wkv7/chunk.h in batched LibTorch operations: what a careful user would
// write without kernels of their own, and what ours is measured against.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::bench {

// y [B, T, H, N] of kernels::wkv7() from a zero state; differentiable by autograd. T is a multiple of
// `chunk`.
at::Tensor wkv7_peer(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                     const at::Tensor& v, const at::Tensor& a, const at::Tensor& b, std::int64_t chunk);

}  // namespace wuneng::bench
