// Pairs of one attention head A_i and one state head R_i, combined into one head of the attention heads' size
// d: what fusion and middle heads are made of.
//
//   concat    [A; R] C              C [d + N, d]
//   additive  A + beta * (R E)      E [N, d], beta [d] from 0
//   gated     z * A + (1 - z) * (R E),  z = sigmoid([A; R] Z + b)   Z [d + N, d] from 0, b [d] from 2
//
// Each pair has parameters of its own, split by pair over the tensor group. A rank's pairs lie within its own
// heads, so nothing is exchanged, and the function does not depend on the number of ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "parallel/layers.h"

namespace wuneng::model {

enum class PairMode { concat, additive, gated };

// Numbers of this rank's attention and state head.
struct HeadPair {
  std::int64_t attention, state;
};

// The pairs of `heads` combined heads: i takes attention head floor(i H_a / heads) and state head
// floor(i H_s / heads). All counts are this rank's; because each is the global count over the same number of
// ranks, the pairs are those of the whole model.
std::vector<HeadPair> pair_heads(std::int64_t heads, std::int64_t attention_heads, std::int64_t state_heads);

class HeadPairs {
 public:
  // `count`: pairs of the whole model; `pairs`: this rank's. d and N are the heads' sizes.
  HeadPairs(PairMode mode, std::int64_t count, const std::vector<HeadPair>& pairs, std::int64_t d,
            std::int64_t N, const parallel::LayerBuilder& layers);

  // attention [B, T, H_a, d], state [B, T, H_s, N] -> [B, T, pairs, d].
  at::Tensor operator()(const at::Tensor& attention, const at::Tensor& state) const;

 private:
  PairMode mode_;
  std::vector<HeadPair> pairs_;
  at::Tensor joint_;    // [P, d + N, d]: C or Z
  at::Tensor lift_;     // [P, N, d]: E
  at::Tensor channel_;  // [P, d]: beta or b
};

// heads [B, T, H, N] -> those chosen, [B, T, indices, N]; the tensor itself where they are all, in order.
at::Tensor choose_heads(const at::Tensor& heads, const std::vector<std::int64_t>& indices);

// A matrix for each head: x [B, T, H, N], weight [H, N, d] -> [B, T, H, d].
at::Tensor per_head_linear(const at::Tensor& x, const at::Tensor& weight);

}  // namespace wuneng::model
