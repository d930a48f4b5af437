// The mixer of a layer: attention heads and state heads side by side, middle heads between them, their
// fusion, and one output projection.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/attention.h"
#include "model/fusion.h"
#include "model/middle_heads.h"
#include "model/state_heads.h"

namespace wuneng::model {

// out = [fusion(A, R); M] W_o. The rows of W_o that read each kind of head are parameters of their own
// (output.attention, output.state, output.middle), and one collective sums all over the tensor group.
class Mixer {
 public:
  Mixer(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers);

  // x [B, T, C] of the stream -> [B, T, C].
  at::Tensor operator()(const at::Tensor& x, const parallel::Stream& stream, const Documents& documents,
                        LayerState* state, at::Tensor& first_values) const;

 private:
  std::optional<Attention> attention_;
  std::optional<StateHeads> state_heads_;
  std::optional<MiddleHeads> middle_heads_;
  std::optional<Fusion> fusion_;  // where the layer has both kinds of heads
  parallel::RowLinear output_;
};

}  // namespace wuneng::model
