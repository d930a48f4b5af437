#include "model/fusion.h"

#include "model/init.h"

namespace wuneng::model {

Fusion::Fusion(const ModelConfig& config, const parallel::LayerBuilder& layers) {
  const std::int64_t H_a = config.attention.heads, H_s = config.state.heads;
  if (config.fusion.alpha == Alpha::layer)
    alpha_ = layers.replicated("alpha", {1}, init::constant(1.0), parallel::Used::in_block);
  if (config.fusion.alpha == Alpha::head)
    alpha_ = layers.split("alpha", {H_s, 1}, init::constant(1.0), {.dim = 0, .heads = H_s});
  if (config.fusion.mode == FusionMode::concat) return;
  const PairMode mode = config.fusion.mode == FusionMode::additive ? PairMode::additive : PairMode::gated;
  pairs_.emplace(mode, H_a, pair_heads(layers.local(H_a), layers.local(H_a), layers.local(H_s)),
                 config.attention.head_size, config.state.head_size, layers);
}

std::vector<at::Tensor> Fusion::operator()(const at::Tensor& attention, const at::Tensor& state) const {
  // Of each channel, though a head's channels share it: LibTorch's sum to a single number, which the gradient
  // of one head would take, depends on the number of threads.
  const at::Tensor scaled =
      alpha_.defined() ? state.mul(alpha_.expand({state.size(2), state.size(3)})) : state;
  if (pairs_) return {(*pairs_)(attention, scaled)};
  return {attention, scaled};
}

}  // namespace wuneng::model
