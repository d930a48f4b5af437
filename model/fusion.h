// How attention heads A [B, T, H_a, d] and state heads R [B, T, H_s, N] join before the output projection:
//
//   concat    the projection reads [A; alpha R]
//   additive  it reads A_i + beta_i * (alpha R_j E_i), paired by head (head_pairs.h); beta starts at 0
//   gated     it reads z_i * A_i + (1 - z_i) * (alpha R_j E_i), where the gate z starts by favouring
//   attention
//
// alpha: fixed at 1, or learnable from 1, one number per layer (held by every rank of the tensor group, which
// sees its own heads' share of the gradient) or one per state head (split by head).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "model/config.h"
#include "model/head_pairs.h"

namespace wuneng::model {

class Fusion {
 public:
  Fusion(const ModelConfig& config, const parallel::LayerBuilder& layers);

  // The inputs of the output projection that take the place of `attention` and `state`: one or two, [B, T, H,
  // .].
  std::vector<at::Tensor> operator()(const at::Tensor& attention, const at::Tensor& state) const;

 private:
  at::Tensor alpha_;                // [1] or [H_s, 1]; undefined: fixed at 1
  std::optional<HeadPairs> pairs_;  // none: concat
};

}  // namespace wuneng::model
