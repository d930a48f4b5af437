#include "model/config.h"

#include <algorithm>

#include "common/check.h"

namespace wuneng::model {
namespace {

constexpr std::int64_t middle_kinds = 3;  // of mixed middle heads: concat, additive, gated

std::int64_t divisor_at_most(std::int64_t number, std::int64_t limit) {
  while (number % limit != 0) --limit;
  return limit;
}

std::int64_t divisor_at_least(std::int64_t number, std::int64_t limit) {
  while (number % limit != 0) ++limit;
  return limit;
}

void check_attention(const AttentionConfig& attention) {
  const std::int64_t heads = attention.heads, kv_heads = attention.resolved_kv_heads();
  WN_REQUIRE(kv_heads <= heads, "model.attention.kv_heads = {}: must be at most model.attention.heads = {}",
             kv_heads, heads);
  WN_REQUIRE(heads % kv_heads == 0,
             "model.attention.kv_heads = {}: must divide model.attention.heads = {}; the nearest choices are "
             "{} and {}",
             kv_heads, heads, divisor_at_most(heads, kv_heads), divisor_at_least(heads, kv_heads));
  WN_REQUIRE(
      attention.head_size > 0 && (attention.head_size % 2 == 0 || attention.positions == Positions::none),
      "model.attention.head_size = {}: must be even and positive, because rotary positions turn pairs of "
      "channels; the nearest is {}",
      attention.head_size, attention.head_size > 0 ? attention.head_size + 1 : 2);
  WN_REQUIRE(
      attention.rope_scaling == RopeScaling::none || attention.positions == Positions::rope,
      "model.attention.rope_scaling: stretches rotary positions, but model.attention.positions = none");
  WN_REQUIRE(attention.rope_scaling != RopeScaling::none || attention.rope_factor == 1.0,
             "model.attention.rope_factor = {}: has no effect while model.attention.rope_scaling = none; "
             "choose linear or ntk",
             attention.rope_factor);
  WN_REQUIRE(attention.global_every == 0 || attention.window > 0,
             "model.attention.global_every = {}: lifts the window of some layers, but model.attention.window "
             "= 0 sets none",
             attention.global_every);
}

// One letter per layer, repeated; each layer that it describes must have heads.
void check_pattern(const ModelConfig& config) {
  WN_REQUIRE(
      !config.pattern.empty() && config.pattern.find_first_not_of("has") == std::string::npos,
      "model.pattern = \"{}\": must consist of the letters h (both kinds of heads), a (attention) and s "
      "(state), one per layer, repeated; for example \"ssa\"",
      config.pattern);
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    WN_REQUIRE(config.has_attention(layer) || config.has_state(layer),
               "model.pattern = \"{}\": layer {} has no heads, because model.attention.heads = {} and "
               "model.state.heads = {}",
               config.pattern, layer, config.attention.heads, config.state.heads);
}

bool any_hybrid(const ModelConfig& config) {
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    if (config.is_hybrid(layer)) return true;
  return false;
}

// What state heads take from attention heads needs them in every layer, in numbers that fit.
void check_state(const ModelConfig& config) {
  const StateConfig& state = config.state;
  const AttentionConfig& attention = config.attention;
  const bool shared = state.kv == StateKv::shared, from_attention = state.value == StateValue::attention;
  if (!shared && !from_attention) return;
  for (std::int64_t layer = 0; layer < config.layers; ++layer)
    WN_REQUIRE(!config.has_state(layer) || config.has_attention(layer),
               "model.state.{}: layer {} has state heads but no attention heads (model.attention.heads = {}, "
               "model.pattern = \"{}\")",
               shared ? "kv = shared" : "value = attention", layer, attention.heads, config.pattern);
  const std::int64_t channels = attention.resolved_kv_heads() * attention.head_size;
  WN_REQUIRE(!shared || (channels % state.head_size == 0 && state.heads % (channels / state.head_size) == 0),
             "model.state.kv = shared: {} key channels ({} heads of {}) must be a multiple of "
             "model.state.head_size = {}, and model.state.heads = {} a multiple of their quotient",
             channels, attention.resolved_kv_heads(), attention.head_size, state.head_size, state.heads);
  WN_REQUIRE(!from_attention || attention.heads % state.heads == 0,
             "model.state.value = attention: model.state.heads = {} must divide model.attention.heads = {}",
             state.heads, attention.heads);
}

void check_fusion(const ModelConfig& config) {
  const bool hybrid = any_hybrid(config), pairs = config.fusion.mode != FusionMode::concat;
  WN_REQUIRE(hybrid || !pairs,
             "model.fusion.mode: additive and gated join attention and state heads, but no layer has both "
             "(model.attention.heads = {}, model.state.heads = {}, model.pattern = \"{}\")",
             config.attention.heads, config.state.heads, config.pattern);
  WN_REQUIRE(
      !pairs || config.attention.heads % config.state.heads == 0,
      "model.state.heads = {}: must divide model.attention.heads = {} in the additive and gated fusion, "
      "where each attention head is paired with one state head and none may stay unread; the nearest "
      "choices are {} and {}, or model.fusion.mode = concat",
      config.state.heads, config.attention.heads,
      divisor_at_most(config.attention.heads, std::min(config.state.heads, config.attention.heads)),
      config.state.heads < config.attention.heads
          ? divisor_at_least(config.attention.heads, config.state.heads)
          : config.attention.heads);
  const MiddleConfig& middle = config.middle;
  WN_REQUIRE(
      middle.mode != MiddleMode::none || middle.heads == 0,
      "model.middle.heads = {}: has no effect while model.middle.mode = none; choose concat, additive, "
      "gated, key or mixed",
      middle.heads);
  WN_REQUIRE(middle.mode == MiddleMode::none || hybrid,
             "model.middle.mode: a middle head takes one attention and one state head, but no layer has both "
             "(model.attention.heads = {}, model.state.heads = {}, model.pattern = \"{}\")",
             config.attention.heads, config.state.heads, config.pattern);
  WN_REQUIRE(middle.mode != MiddleMode::mixed || middle.resolved_heads(config.attention) >= middle_kinds,
             "model.middle.heads = {}: mixed needs at least {}, one of each kind", middle.heads,
             middle_kinds);
}

}  // namespace

std::int64_t MiddleConfig::resolved_heads(const AttentionConfig& attention) const {
  if (mode == MiddleMode::none) return 0;
  return heads > 0 ? heads : std::max(attention.heads / 4, mode == MiddleMode::mixed ? middle_kinds : 1);
}

std::int64_t ModelConfig::first_state_layer() const {
  std::int64_t layer = 0;
  while (layer < layers && !has_state(layer)) ++layer;
  return layer;
}

std::int64_t FeedForwardConfig::resolved_hidden(std::int64_t width) const {
  if (hidden > 0) return hidden;
  if (kind != FeedForwardKind::swiglu) return 4 * width;
  constexpr std::int64_t multiple = 64;
  return (8 * width + 3 * multiple - 1) / (3 * multiple) * multiple;
}

void check(const ModelConfig& config) {
  WN_REQUIRE(config.width > 0, "model.width = {}: must be at least 1", config.width);
  WN_REQUIRE(config.layers > 0, "model.layers = {}: must be at least 1", config.layers);
  WN_REQUIRE(config.vocab_size > 0, "model.vocab_size = {}: must be at least 1", config.vocab_size);
  WN_REQUIRE(config.attention.heads >= 0, "model.attention.heads = {}: must be at least 0",
             config.attention.heads);
  WN_REQUIRE(config.state.heads >= 0, "model.state.heads = {}: must be at least 0", config.state.heads);
  WN_REQUIRE(
      config.attention.heads + config.state.heads > 0,
      "model.attention.heads = 0 and model.state.heads = 0: a layer needs at least one head of either kind");
  if (config.attention.heads > 0) check_attention(config.attention);
  check_pattern(config);
  if (config.state.heads > 0) check_state(config);
  check_fusion(config);
}

namespace {

// What the ranks of a tensor group share out evenly.
struct Count {
  std::string key;  // that says how many there are
  std::int64_t count;
  bool may_be_copied = false;  // where there are fewer than ranks, several hold the same one

  bool can_be_split_over(std::int64_t ranks) const {
    return count % ranks == 0 || (may_be_copied && ranks % count == 0);
  }
};

std::vector<Count> shared_out(const ModelConfig& config) {
  std::vector<Count> counts;
  const auto add = [&](std::string key, std::int64_t count, bool may_be_copied = false) {
    if (count > 0) counts.push_back({std::move(key), count, may_be_copied});
  };
  const AttentionConfig& attention = config.attention;
  const std::int64_t middle = config.middle.resolved_heads(attention);
  add("model.attention.heads", attention.heads);
  if (attention.heads > 0) add("model.attention.kv_heads", attention.resolved_kv_heads(), true);
  add("model.state.heads", config.state.heads);
  if (config.state.heads > 0 && config.state.kv == StateKv::shared)
    add("slices of model.state.head_size in the attention keys (model.state.kv = shared)",
        attention.resolved_kv_heads() * attention.head_size / config.state.head_size);
  if (config.middle.mode == MiddleMode::mixed)
    add("model.middle.heads of each kind (mixed)", middle % middle_kinds == 0 ? middle / middle_kinds : 1);
  else
    add("model.middle.heads", middle);
  add("model.ffn.hidden", config.feed_forward.resolved_hidden(config.width));
  return counts;
}

}  // namespace

void check_split(const ModelConfig& config, std::int64_t ranks) {
  const auto counts = shared_out(config);
  const auto fits = [](std::int64_t n) { return [n](const Count& c) { return c.can_be_split_over(n); }; };
  const auto wrong = std::ranges::find_if_not(counts, fits(ranks));
  if (wrong == counts.end()) return;
  std::string valid;
  for (std::int64_t n = 1; n <= counts.front().count; ++n)
    if (std::ranges::all_of(counts, fits(n))) valid += (valid.empty() ? "" : ", ") + std::to_string(n);
  throw UsageError(fmt::format(
      "parallel.tensor = {}: does not divide {} = {}; numbers of ranks that this model can be split over: {}",
      ranks, wrong->key, wrong->count, valid));
}

}  // namespace wuneng::model
