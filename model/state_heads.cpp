#include "model/state_heads.h"

#include <cmath>

#include "kernels/linear.h"
#include "kernels/state_head.h"
#include "kernels/token_shift.h"
#include "kernels/wkv7/wkv7.h"
#include "model/boundary_states.h"
#include "model/head_pairs.h"

namespace wuneng::model {
namespace {

enum Mixed { receptance, decay, key, value, rate, gate };  // rows of the token-shift mix

// x matrix, [B, T, I] -> [B, T, O].
at::Tensor times(const at::Tensor& x, const at::Tensor& matrix) {
  return kernels::linear_each(x, matrix.t())[0];
}

// bias + hidden up, [B, T, rank] -> [B, T, H * N].
at::Tensor expand(const LowRankMap& map, const at::Tensor& hidden) {
  const at::Tensor out = times(hidden, map.up);
  return map.bias.defined() ? out.add(map.bias) : out;
}

// Keys or values [B, T, H_kv, d] of attention as those of H state heads: their channels in slices of N, each
// slice for as many state heads as are left. [B, T, H, N].
at::Tensor slices(const at::Tensor& shared, std::int64_t H, std::int64_t N) {
  const at::Tensor cut = shared.reshape({shared.size(0), shared.size(1), -1, 1, N});
  return cut.expand({-1, -1, -1, H / cut.size(2), -1}).flatten(2, 3);
}

}  // namespace

StateHeads::StateHeads(const ModelConfig& config, init::Depth depth, bool first,
                       const parallel::LayerBuilder& layers)
    : config_(config.state), first_(first) {
  const std::int64_t C = config.width, H = config_.heads, N = config_.head_size;
  const parallel::Split by_head{.dim = 0, .heads = H};
  const auto per_head = [&](const std::string& name, const parallel::Initializer& init) {
    return layers.split(name, {H, N}, init, by_head);
  };
  mix_ = layers.replicated("mix", {6, C}, init::time_mix(depth), parallel::Used::in_block);
  receptance_ = layers.column_linear("receptance", C, H, N, init::orthogonal(1.0));
  if (config_.kv == StateKv::own) {
    key_ = layers.column_linear("key", C, H, N, init::orthogonal(0.1));
    value_ = layers.column_linear("value", C, H, N, init::orthogonal(1.0));
  }
  if (config_.value == StateValue::attention) {
    const std::int64_t group = config.attention.heads / H * config.attention.head_size;
    from_attention_ = layers.split("from_attention", {H, group, N}, init::constant(0.0), by_head);
  }
  if (config_.read == StateRead::dual)
    reread_ =
        layers.split("reread", {H, N, N}, init::normal(1.0 / std::sqrt(static_cast<double>(N))), by_head);
  decay_ = low_rank_map("decay", init::LowRank::decay, init::decay_bias(depth, N), config, layers);
  rate_ = low_rank_map("rate", init::LowRank::rate, init::rate_bias(N), config, layers);
  if (!first_ && config_.value_residual)
    value_residual_ =
        low_rank_map("value_residual", init::LowRank::value, init::value_bias(), config, layers);
  gate_ = low_rank_map("gate", init::LowRank::gate, nullptr, config, layers);
  removal_ = per_head("removal", init::removal_key());
  replacement_ = per_head("replacement", init::constant(1.02));
  bonus_ = per_head("bonus", init::constant(-0.04));
  norm_weight_ = per_head("norm.weight", init::state_norm_weight(depth));
  norm_bias_ = per_head("norm.bias", init::constant(0.0));
}

LowRankMap StateHeads::low_rank_map(const std::string& name, init::LowRank kind,
                                    const parallel::Initializer& bias, const ModelConfig& config,
                                    const parallel::LayerBuilder& layers) const {
  const std::int64_t rank = init::low_rank(kind, config), channels = config_.heads * config_.head_size;
  // The decay's bias learns at twice the rate, as in the official recipe.
  const parallel::OptimizerGroup bias_group{.weight_decay = false,
                                            .lr_scale = kind == init::LowRank::decay ? 2.0 : 1.0};
  LowRankMap map;
  if (bias)
    map.bias = layers.split(name + ".bias", {channels}, bias, {.dim = 0, .heads = config_.heads}, bias_group);
  map.down =
      layers.replicated(name + ".down", {config.width, rank}, init::constant(0.0), parallel::Used::in_block);
  map.up = layers.split(name + ".up", {rank, channels}, init::orthogonal_tall(0.1),
                        {.dim = 1, .heads = config_.heads});
  return map;
}

// Values before WKV-7: own or shared, with what they take from attention and from the first layer.
at::Tensor StateHeads::values(const at::Tensor& mixed, const at::Tensor& shared, const at::Tensor& attention,
                              at::Tensor& first_values) const {
  const std::int64_t B = mixed.size(0), T = mixed.size(1), N = config_.head_size;
  const std::int64_t H = removal_.size(0);
  at::Tensor v = config_.kv == StateKv::own ? value_(mixed).view({B, T, H, N}) : slices(shared, H, N);
  if (from_attention_.defined())
    v = v.add(per_head_linear(attention.reshape({B, T, H, from_attention_.size(1)}), from_attention_));
  if (first_)
    first_values = v;
  else if (config_.value_residual)
    v = kernels::mix_values(v.contiguous(), first_values.contiguous(),
                            expand(value_residual_, times(mixed, value_residual_.down)).view({B, T, H, N}));
  return v.contiguous();
}

at::Tensor StateHeads::operator()(const at::Tensor& x, const QueryKeyValue& projected,
                                  const at::Tensor& attention, const Documents& documents, LayerState* state,
                                  at::Tensor& first_values) const {
  const std::int64_t B = x.size(0), T = x.size(1), N = config_.head_size;
  const auto heads = [&](const at::Tensor& channels) { return channels.view({B, T, -1, N}); };

  const std::vector<at::Tensor> mixed =
      kernels::token_shift(x, mix_, state ? state->mixer_previous : at::Tensor(), documents.starts());
  const at::Tensor r = heads(receptance_(mixed[receptance]));
  const at::Tensor k = config_.kv == StateKv::own ? heads(key_(mixed[key]))
                                                  : slices(projected.k, removal_.size(0), N).contiguous();
  const at::Tensor v = values(mixed[value], projected.v, attention, first_values);
  const at::Tensor decay_logit = heads(expand(decay_, times(mixed[decay], decay_.down).tanh()));
  const at::Tensor rate_logit = heads(expand(rate_, times(mixed[rate], rate_.down)));
  const at::Tensor g = heads(expand(gate_, times(mixed[gate], gate_.down).sigmoid()));

  kernels::StateHeadInputs in =
      kernels::prepare_state_head(decay_logit, rate_logit, k, removal_, replacement_);
  if (config_.negative_eigenvalues) in.b = in.b.mul(in.log_decay.exp().add(1.0));
  const LayerState before = state ? *state : LayerState();
  const auto read = [&](const at::Tensor& by) -> BoundaryRead {
    if (config_.boundary_states > 0)
      return read_with_boundaries(config_.boundary_states, by, in, v, documents, before.wkv,
                                  before.boundaries);
    const auto [y, final_state] =
        kernels::wkv7(by, in.log_decay, in.k, v, in.a, in.b, before.wkv, documents.starts());
    return {y, final_state, {}};
  };
  BoundaryRead out = read(r);
  if (reread_.defined()) out = read(per_head_linear(out.y, reread_).contiguous());
  if (state) {
    state->wkv = out.final_state;
    state->boundaries = out.memory;
    state->mixer_previous = x.select(1, T - 1);
  }
  // 64e-5 for heads of 64: the official code does not divide its read-out by N, and scales epsilon instead.
  const double eps = static_cast<double>(N) * 1e-5;
  return kernels::finish_state_head(out.y, r, in.k, v, g, bonus_, norm_weight_, norm_bias_, eps);
}

}  // namespace wuneng::model
