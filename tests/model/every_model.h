// Tiny models that between them have every setting, and what tests do with them.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>

#include <ostream>

#include "model/language_model.h"

namespace wuneng::model {

inline constexpr std::int64_t vocab = 50;

inline ModelConfig tiny() {
  ModelConfig config;
  config.width = 64;
  config.layers = 3;
  config.vocab_size = vocab;
  config.attention = {.heads = 4, .kv_heads = 2, .head_size = 16};
  config.state.heads = 1;
  return config;
}

inline ModelConfig transformer() {
  ModelConfig config = tiny();
  config.state.heads = 0;
  return config;
}

inline ModelConfig rwkv7() {
  ModelConfig config = tiny();
  config.attention.heads = config.attention.kv_heads = 0;
  config.feed_forward.kind = FeedForwardKind::rwkv;
  config.norm = NormKind::layer;
  config.embedding_norm = true;
  config.init = InitKind::rwkv;
  return config;
}

// A model whose zero-initialised parts are not zero, so that every path carries something.
inline LanguageModel shaken(const ModelConfig& config, parallel::Communicator& group) {
  LanguageModel model(config, group, 1);
  const at::NoGradGuard no_grad;
  std::int64_t seed = 0;
  for (const parallel::Parameter& parameter : model.parameters()) {
    const at::Tensor noise =
        at::randint(-1000, 1001, parameter.value.sizes(), at::detail::createCPUGenerator(++seed), at::kFloat);
    parameter.value.detach().add_(noise, 5e-5);
  }
  return model;
}

// The same model in float64. The layers hold the tensors that the list of parameters holds: new contents
// reach them too.
inline LanguageModel in_float64(LanguageModel model) {
  for (const parallel::Parameter& p : model.parameters()) p.value.set_data(p.value.detach().to(at::kDouble));
  return model;
}

inline at::Tensor noise(at::IntArrayRef shape, std::uint64_t seed) {
  return at::randint(-1000, 1001, shape, at::detail::createCPUGenerator(seed), at::kDouble).mul(1e-3);
}

// What a rank of a tensor group holds of a whole parameter, or of its gradient.
inline at::Tensor part_of(const at::Tensor& whole, const parallel::Parameter& p) {
  return p.shard_dim < 0 ? whole
                         : whole.narrow(p.shard_dim, p.shard_begin, p.value.size(p.shard_dim) - p.padding);
}

// Makes the parameters float64 and adds noise, that of the whole parameter to each rank's part.
inline void shake_in_float64(const parallel::Parameters& parameters) {
  std::uint64_t seed = 0;
  for (const parallel::Parameter& p : parameters) {
    const at::Tensor noisy = p.value.detach().to(at::kDouble);
    const at::Tensor real = p.padding > 0 ? noisy.narrow(0, 0, noisy.size(0) - p.padding) : noisy;
    real.add_(part_of(noise(p.global_shape, ++seed), p).mul(0.05));
    p.value.set_data(noisy);
  }
}

inline at::Tensor tokens(std::int64_t batch, std::int64_t length, std::uint64_t seed = 3) {
  return at::randint(0, vocab, {batch, length}, at::detail::createCPUGenerator(seed), at::kLong);
}

inline double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

// tiny() with one thing changed.
template <class Change>
ModelConfig with(Change change) {
  ModelConfig config = tiny();
  change(config);
  return config;
}

inline ModelConfig fused(FusionMode mode, Alpha alpha = Alpha::layer) {
  return with([&](ModelConfig& c) { c.fusion = {.mode = mode, .alpha = alpha}; });
}

inline ModelConfig middle(MiddleMode mode, FusionMode fusion = FusionMode::concat, bool norm = true) {
  return with([&](ModelConfig& c) {
    c.middle = {.mode = mode, .heads = 3, .norm = norm};
    c.fusion.mode = fusion;
  });
}

struct Named {
  const char* name;
  ModelConfig config;
};
inline void PrintTo(const Named& model, std::ostream* out) { *out << model.name; }

inline const Named every_model[] = {
    {"WuNeng", tiny()},
    {"Transformer", transformer()},
    {"Rwkv7", rwkv7()},
    {"Additive", fused(FusionMode::additive, Alpha::fixed)},
    {"Gated", fused(FusionMode::gated)},
    {"AlphaPerHead", with([](ModelConfig& c) {
       c.state.heads = 2;
       c.fusion.alpha = Alpha::head;
     })},
    {"MiddleConcat", middle(MiddleMode::concat)},
    {"MiddleAdditiveInGated", middle(MiddleMode::additive, FusionMode::gated)},
    {"MiddleGatedWithoutNorm", middle(MiddleMode::gated, FusionMode::concat, false)},
    {"MiddleKey", middle(MiddleMode::key)},
    {"MiddleMixedInAdditive", middle(MiddleMode::mixed, FusionMode::additive)},
    {"Gpt2", with([](ModelConfig& c) {
       c.state.heads = 0;
       c.attention.positions = Positions::none;
       c.learned_positions = 80;
       c.biases = c.tied_head = true;
       c.norm = NormKind::layer;
       c.feed_forward.kind = FeedForwardKind::gelu;
     })},
    {"SharedKeysAndValues", with([](ModelConfig& c) {
       c.attention = {.heads = 8, .kv_heads = 8, .head_size = 16};
       c.state.heads = 4;
       c.state.kv = StateKv::shared;
       c.feed_forward.kind = FeedForwardKind::relu2;
     })},
    {"ValuesFromAttentionReadTwice", with([](ModelConfig& c) {
       c.state.heads = 2;
       c.state.value = StateValue::attention;
       c.state.read = StateRead::dual;
       c.state.value_residual = false;
     })},
    {"NegativeEigenvalues", with([](ModelConfig& c) { c.state.negative_eigenvalues = true; })},
    {"BoundaryStates", with([](ModelConfig& c) { c.state.boundary_states = 2; })},
    {"BoundaryStatesReadTwice", with([](ModelConfig& c) {
       c.state.boundary_states = 1;
       c.state.read = StateRead::dual;
       c.middle = {.mode = MiddleMode::mixed, .heads = 3};
     })},
    {"Pattern", with([](ModelConfig& c) { c.pattern = "ash"; })},
    {"Window", with([](ModelConfig& c) {
       c.attention.window = 9;
       c.attention.global_every = 3;
       c.middle = {.mode = MiddleMode::key, .heads = 2};
     })},
    {"SoftcapNoPositionsQkNorm", with([](ModelConfig& c) {
       c.attention.softcap = 2.0;
       c.attention.positions = Positions::none;
       c.attention.qk_norm = true;
     })},
    {"WindowSoftcapScaledRope", with([](ModelConfig& c) {
       c.attention.softcap = 5.0;
       c.attention.window = 6;
       c.attention.rope_scaling = RopeScaling::ntk;
       c.attention.rope_factor = 4.0;
     })},
};

}  // namespace wuneng::model
