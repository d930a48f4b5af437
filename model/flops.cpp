#include "model/flops.h"

#include "model/init.h"

namespace wuneng::model {
namespace {

double attention_flops(const ModelConfig& config, double keys) {
  const AttentionConfig& a = config.attention;
  const auto C = static_cast<double>(config.width), N = static_cast<double>(a.head_size);
  const auto heads = static_cast<double>(a.heads),
             kv_heads = static_cast<double>(a.heads > 0 ? a.resolved_kv_heads() : 0);
  const double projections = 2.0 * C * N * (2.0 * heads + 2.0 * kv_heads);  // q, out; k, v
  return projections + 4.0 * heads * N * keys;
}

double state_flops(const ModelConfig& config, bool first) {
  const StateConfig& s = config.state;
  if (s.heads == 0) return 0.0;
  const auto C = static_cast<double>(config.width), H = static_cast<double>(s.heads),
             N = static_cast<double>(s.head_size);
  const auto rank = [&](init::LowRank kind) { return static_cast<double>(init::low_rank(kind, config)); };
  const double ranks = rank(init::LowRank::decay) + rank(init::LowRank::rate) + rank(init::LowRank::gate) +
                       (first ? 0.0 : rank(init::LowRank::value));
  return 2.0 * C * H * N * 4.0 + 2.0 * ranks * (C + H * N) +
         9.0 * H * N * N;  // r, k, v, out; low-rank maps; WKV-7
}

}  // namespace

double forward_flops_per_token(const ModelConfig& config, std::int64_t sequence_length) {
  const auto C = static_cast<double>(config.width);
  const auto hidden = static_cast<double>(config.feed_forward.resolved_hidden(config.width));
  const double matrices = config.feed_forward.kind == FeedForwardKind::swiglu ? 3.0 : 2.0;
  double total = 2.0 * C * static_cast<double>(config.vocab_size);
  for (std::int64_t l = 0; l < config.layers; ++l)
    total += attention_flops(config, static_cast<double>(sequence_length + 1) / 2.0) +
             state_flops(config, l == 0) + 2.0 * matrices * C * hidden;
  return total;
}

}  // namespace wuneng::model
