#include "model/feed_forward.h"

#include <ATen/ops/gelu.h>

#include <cmath>

#include "kernels/activation.h"
#include "kernels/token_shift.h"

namespace wuneng::model {

FeedForward::FeedForward(const ModelConfig& config, init::Depth depth, const parallel::LayerBuilder& layers)
    : kind_(config.feed_forward.kind) {
  const std::int64_t C = config.width, hidden = config.feed_forward.resolved_hidden(C);
  const bool rwkv = config.init == InitKind::rwkv;
  const auto in_init = rwkv ? init::orthogonal(1.0) : init::normal(1.0 / std::sqrt(static_cast<double>(C)));
  const auto out_init = rwkv ? init::constant(0.0)
                             : init::normal(1.0 / std::sqrt(static_cast<double>(hidden * 2 * config.layers)));
  if (kind_ == FeedForwardKind::rwkv) {
    mix_ = layers.replicated("mix", {1, C}, init::channel_mix(depth), parallel::Used::in_block);
    up_ = layers.column_linear("key", C, hidden, 1, in_init);
    down_ = layers.row_linear("value", {{"", hidden, 1, out_init}}, C);
    return;
  }
  if (kind_ == FeedForwardKind::swiglu)
    gate_ = layers.column_linear("gate", C, hidden, 1, in_init, config.biases);
  up_ = layers.column_linear("up", C, hidden, 1, in_init, config.biases);
  down_ = layers.row_linear("down", {{"", hidden, 1, out_init}}, C, config.biases);
}

at::Tensor FeedForward::operator()(const at::Tensor& x, const parallel::Stream& stream,
                                   const Documents& documents, LayerState* state) const {
  const at::Tensor u = stream.enter(x);
  if (kind_ != FeedForwardKind::rwkv) return down_({activated(u)}, stream);
  const at::Tensor shifted =
      kernels::token_shift(u, mix_, state ? state->ffn_previous : at::Tensor(), documents.starts())[0];
  if (state) state->ffn_previous = u.select(1, u.size(1) - 1);
  return down_({activated(shifted)}, stream);
}

at::Tensor FeedForward::activated(const at::Tensor& u) const {
  if (kind_ == FeedForwardKind::swiglu) {
    const std::vector<at::Tensor> out = parallel::column_linears({gate_, up_}, u);
    return kernels::swiglu(out[0], out[1]);
  }
  return kind_ == FeedForwardKind::gelu ? at::gelu(up_(u), "tanh") : kernels::squared_relu(up_(u));
}

}  // namespace wuneng::model
