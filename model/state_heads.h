// RWKV-7 state heads: the time mix of arXiv 2503.14456 section 4.1 up to, and without, its output projection.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/init.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

// bias + f(x down) up, the low-rank maps of decay, in-context rate, value residual and gate.
struct LowRankMap {
  at::Tensor down;  // [C, rank], held by every rank of the tensor group, which see their own heads' share of
                    // its gradient
  at::Tensor up;    // [rank, H * N], split by head
  at::Tensor bias;  // [H * N], split by head; undefined: none
};

class StateHeads {
 public:
  // `first`: the first layer that has state heads; its values feed the value residual of the others.
  StateHeads(const ModelConfig& config, init::Depth depth, bool first, const parallel::LayerBuilder& layers);

  // x [B, T, C] -> this rank's heads [B, T, H * N]. `first_values` [B, T, H, N] is set by the first layer and
  // read by the others.
  at::Tensor operator()(const at::Tensor& x, const Documents& documents, LayerState* state,
                        at::Tensor& first_values) const;

 private:
  LowRankMap low_rank_map(const std::string& name, init::LowRank kind, const parallel::Initializer& bias,
                          const ModelConfig& config, const parallel::LayerBuilder& layers) const;

  StateConfig config_;
  bool first_;
  at::Tensor mix_;  // [6, C] in the order r, w, k, v, a, g
  parallel::ColumnLinear receptance_, key_, value_;
  LowRankMap decay_, rate_, value_residual_, gate_;
  at::Tensor removal_, replacement_, bonus_;  // [H, N]: k_k, k_a, r_k of the official code
  at::Tensor norm_weight_, norm_bias_;        // [H, N]
};

}  // namespace wuneng::model
