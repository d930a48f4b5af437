// The mixer of a layer: attention heads and state heads side by side, fused, and one output projection.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "model/attention.h"
#include "model/state_heads.h"

namespace wuneng::model {

// out = [A; alpha R] W_o: the rows of W_o that read the attention heads and those that read the state heads
// are parameters of their own (output.attention, output.state), and one all-reduce sums both over the tensor
// group.
class Mixer {
 public:
  Mixer(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers);

  // x [B, T, C] -> [B, T, C].
  at::Tensor operator()(const at::Tensor& x, const Documents& documents, LayerState* state,
                        at::Tensor& first_values) const;

 private:
  parallel::Communicator* tensor_group_;
  std::optional<Attention> attention_;
  std::optional<StateHeads> state_heads_;
  at::Tensor alpha_;  // [1]; undefined: fixed at 1
  parallel::RowLinear output_;
};

}  // namespace wuneng::model
