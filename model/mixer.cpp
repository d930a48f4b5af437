#include "model/mixer.h"

#include <cmath>

#include "parallel/collectives.h"

namespace wuneng::model {

Mixer::Mixer(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers)
    : tensor_group_(&layers.tensor_group()) {
  const AttentionConfig& attention = config.attention;
  const StateConfig& state = config.state;
  const bool hybrid = attention.heads > 0 && state.heads > 0;
  std::vector<parallel::LayerBuilder::RowInput> inputs;
  if (attention.heads > 0) {
    attention_.emplace(config, hybrid && config.fusion.attention_norm, layers.in("attention"));
    const double std =
        1.0 / std::sqrt(static_cast<double>(attention.heads * attention.head_size * 2 * config.layers));
    inputs.push_back({"attention", attention.heads, attention.head_size,
                      config.init == InitKind::rwkv ? init::constant(0.0) : init::normal(std)});
  }
  if (state.heads > 0) {
    state_heads_.emplace(config, depth, depth.layer == 0, layers.in("state"));
    if (hybrid && config.fusion.alpha == Alpha::layer)
      alpha_ = layers.replicated("output.alpha", {1}, init::constant(1.0), {.partial_gradient = true});
    // Rows that read the state heads start at zero: a new hybrid computes what its attention heads alone
    // would.
    inputs.push_back({"state", state.heads, state.head_size, init::constant(0.0)});
  }
  output_ = layers.row_linear("output", inputs, config.width);
}

at::Tensor Mixer::operator()(const at::Tensor& x, const Documents& documents, LayerState* state,
                             at::Tensor& first_values) const {
  const at::Tensor u = parallel::enter_shards(x, *tensor_group_);
  std::vector<at::Tensor> heads;
  if (attention_) heads.push_back((*attention_)(u, documents, state));
  if (state_heads_) {
    const at::Tensor read = (*state_heads_)(u, documents, state, first_values);
    heads.push_back(alpha_.defined() ? read.mul(alpha_) : read);
  }
  return output_(heads);
}

}  // namespace wuneng::model
