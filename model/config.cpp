#include "model/config.h"

#include "common/check.h"

namespace wuneng::model {
namespace {

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
      attention.head_size > 0 && attention.head_size % 2 == 0,
      "model.attention.head_size = {}: must be even and positive, because rotary positions turn pairs of "
      "channels; the nearest is {}",
      attention.head_size, attention.head_size > 0 ? attention.head_size + 1 : 2);
}

}  // namespace

std::int64_t FeedForwardConfig::resolved_hidden(std::int64_t width) const {
  if (hidden > 0) return hidden;
  if (kind == FeedForwardKind::rwkv) return 4 * width;
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
}

}  // namespace wuneng::model
