#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/init.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

// swiglu  (silu(x W_gate) * x W_up) W_down                  arXiv 2002.05202
// gelu    gelu(x W_up) W_down, the tanh form                as in GPT-2
// relu2   relu(x W_up)^2 W_down                             arXiv 2109.08668
// rwkv    relu(shift(x) W_key)^2 W_value                    RWKV-7's channel mix, shift = token shift
// with biases where the configuration has them (not in the channel mix). W_up and W_gate are split by column,
// W_down by row over the tensor group.
class FeedForward {
 public:
  FeedForward(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers);

  // x [B, T, C] of the stream -> [B, T, C].
  at::Tensor operator()(const at::Tensor& x, const parallel::Stream& stream, const Documents& documents,
                        LayerState* state) const;

 private:
  at::Tensor activated(const at::Tensor& u) const;

  FeedForwardKind kind_;
  at::Tensor mix_;                    // [1, C], channel mix only
  parallel::ColumnLinear gate_, up_;  // the channel mix has no gate; its `up` is W_key
  parallel::RowLinear down_;
};

}  // namespace wuneng::model
