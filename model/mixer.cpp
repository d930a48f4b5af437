#include "model/mixer.h"

#include <cmath>

namespace wuneng::model {
namespace {

using RowInput = parallel::LayerBuilder::RowInput;

// The heads that the output projection reads. Rows that read attention heads (or what takes their place)
// start small; rows that read state and middle heads start at zero: a new hybrid computes what its attention
// heads alone would, and still every row has a gradient.
std::vector<RowInput> output_rows(const ModelConfig& config, std::int64_t layer) {
  const AttentionConfig& a = config.attention;
  const double std = 1.0 / std::sqrt(static_cast<double>(a.heads * a.head_size * 2 * config.layers));
  std::vector<RowInput> rows;
  if (config.has_attention(layer))
    rows.push_back({"attention", a.heads, a.head_size,
                    config.init == InitKind::rwkv ? init::constant(0.0) : init::normal(std)});
  if (config.has_state(layer) && !(config.is_hybrid(layer) && config.fusion.mode != FusionMode::concat))
    rows.push_back({"state", config.state.heads, config.state.head_size, init::constant(0.0)});
  if (config.is_hybrid(layer) && config.middle.mode != MiddleMode::none)
    rows.push_back({"middle", config.middle.resolved_heads(a), a.head_size, init::constant(0.0)});
  return rows;
}

}  // namespace

Mixer::Mixer(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers) {
  const bool hybrid = config.is_hybrid(depth.layer);
  if (config.has_attention(depth.layer))
    attention_.emplace(config, depth.layer, hybrid && config.fusion.attention_norm, layers.in("attention"));
  if (config.has_state(depth.layer))
    state_heads_.emplace(config, depth, depth.layer == config.first_state_layer(), layers.in("state"));
  if (hybrid) fusion_.emplace(config, layers.in("fusion"));
  if (hybrid && config.middle.mode != MiddleMode::none)
    middle_heads_.emplace(config, depth.layer, layers.in("middle"));
  output_ = layers.row_linear("output", output_rows(config, depth.layer), config.width,
                              config.biases && attention_);
}

at::Tensor Mixer::operator()(const at::Tensor& x, const parallel::Stream& stream, const Documents& documents,
                             LayerState* state, at::Tensor& first_values) const {
  const at::Tensor u = stream.enter(x);
  QueryKeyValue projected;
  std::vector<at::Tensor> heads;  // [B, T, H, N] each
  if (attention_) {
    projected = attention_->project(u);
    heads.push_back(attention_->heads(projected, documents, state ? &state->attention : nullptr));
  }
  if (state_heads_)
    heads.push_back((*state_heads_)(u, projected, heads.empty() ? at::Tensor() : heads[0], documents, state,
                                    first_values));
  at::Tensor middle;
  if (middle_heads_)
    middle = (*middle_heads_)(heads[0], heads[1], projected, documents, state ? &state->middle : nullptr);
  if (fusion_) heads = (*fusion_)(heads[0], heads[1]);
  if (middle.defined()) heads.push_back(middle);
  for (at::Tensor& kind : heads) kind = kind.reshape({u.size(0), u.size(1), -1});
  return output_(heads, stream);
}

}  // namespace wuneng::model
