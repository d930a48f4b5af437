// The operators that have no CUDA kernel of their own, as chains of LibTorch's, which differentiate
// themselves. Any device and floating dtype; the headers of the operators, which come here for what is not on
// the CPU, say what each of them computes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "kernels/adamw.h"
#include "kernels/linear_cross_entropy.h"

namespace wuneng::kernels::composed {

// weight [C], or [H, N] of heads each by itself.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);
at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps);
at::Tensor rope(const at::Tensor& x, std::int64_t first_position, double base, double step);
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);
at::Tensor squared_relu(const at::Tensor& x);
// Leaves `gradient` scaled.
void adamw(const at::Tensor& value, const at::Tensor& gradient, const at::Tensor& exp_avg,
           const at::Tensor& exp_avg_sq, const AdamWStep& step);
at::Tensor sums_of_squares(const at::Tensor& x, std::int64_t block);

// Logits [n, V] of one shard of a vocabulary, of which the first `vocab` columns stand for ids, become
// losses, objectives [n] and, where it is defined, the gradient [n, V], which may be the same memory. targets
// [n]: a column, target_elsewhere where another shard has it, or -1 where there is nothing to predict.
struct ShardRows {
  at::Tensor logits, targets, losses, objectives, gradient;
  std::int64_t vocab;
  LogitPenalties penalties;
};
void shard_rows(const ShardRows& rows, const VocabularyShard& shard);

}  // namespace wuneng::kernels::composed
