#include "model/cost.h"

#include <algorithm>

#include "model/init.h"

namespace wuneng::model {
namespace {

// Keys that a token of a sequence of T sees on average.
double mean_keys(std::int64_t window, double T) {
  const double w = window > 0 ? std::min(static_cast<double>(window), T) : T;
  return (w * (w + 1.0) / 2.0 + (T - w) * w) / T;
}

double attention_flops(const ModelConfig& config, std::int64_t layer, std::int64_t sequence_length) {
  const AttentionConfig& a = config.attention;
  if (!config.has_attention(layer)) return 0.0;
  const double keys = mean_keys(a.window_of(layer), static_cast<double>(sequence_length));
  const auto C = static_cast<double>(config.width), N = static_cast<double>(a.head_size);
  const auto heads = static_cast<double>(a.heads),
             kv_heads = static_cast<double>(a.heads > 0 ? a.resolved_kv_heads() : 0);
  const double projections = 2.0 * C * N * (2.0 * heads + 2.0 * kv_heads);  // q, out; k, v
  return projections + 4.0 * heads * N * keys;
}

double state_flops(const ModelConfig& config, std::int64_t layer) {
  const StateConfig& s = config.state;
  if (!config.has_state(layer)) return 0.0;
  const bool first = layer == config.first_state_layer();
  // r, k, v, out; the output projection reads state heads only where they are not paired with attention
  // heads.
  const double projections =
      1.0 + (s.kv == StateKv::own ? 2.0 : 0.0) +
      (config.is_hybrid(layer) && config.fusion.mode != FusionMode::concat ? 0.0 : 1.0);
  const double reads = s.read == StateRead::dual ? 2.0 : 1.0;
  const auto C = static_cast<double>(config.width), H = static_cast<double>(s.heads),
             N = static_cast<double>(s.head_size);
  const auto rank = [&](init::LowRank kind) { return static_cast<double>(init::low_rank(kind, config)); };
  const double ranks = rank(init::LowRank::decay) + rank(init::LowRank::rate) + rank(init::LowRank::gate) +
                       (first || !s.value_residual ? 0.0 : rank(init::LowRank::value));
  const double from_attention =
      s.value == StateValue::attention
          ? 2.0 * static_cast<double>(config.attention.heads * config.attention.head_size) * N
          : 0.0;
  return 2.0 * C * H * N * projections + 2.0 * ranks * (C + H * N) + from_attention +
         9.0 * H * N * N * reads + 2.0 * H * N * N * (reads - 1.0);  // WKV-7, and W between two reads
}

// Of combining `heads` pairs of heads of sizes d and N: concat and gated read both, additive and gated lift.
double pair_flops(double heads, double d, double N, bool joint, bool lift) {
  return 2.0 * heads * d * ((joint ? d + N : 0.0) + (lift ? N : 0.0));
}

double fusion_flops(const ModelConfig& config, std::int64_t layer, std::int64_t sequence_length) {
  if (!config.is_hybrid(layer)) return 0.0;
  const auto d = static_cast<double>(config.attention.head_size),
             N = static_cast<double>(config.state.head_size),
             H_a = static_cast<double>(config.attention.heads),
             H_m = static_cast<double>(config.middle.resolved_heads(config.attention));
  const FusionMode fusion = config.fusion.mode;
  double total =
      fusion == FusionMode::concat ? 0.0 : pair_flops(H_a, d, N, fusion == FusionMode::gated, true);
  total += 2.0 * static_cast<double>(config.width) * H_m * d;  // the output projection's rows of middle heads
  switch (config.middle.mode) {
    case MiddleMode::none:
      break;
    case MiddleMode::concat:
      total += pair_flops(H_m, d, N, true, false);
      break;
    case MiddleMode::additive:
      total += pair_flops(H_m, d, N, false, true);
      break;
    case MiddleMode::gated:
      total += pair_flops(H_m, d, N, true, true);
      break;
    case MiddleMode::mixed:
      total += pair_flops(H_m / 3.0, d, N, true, true) * 2.0;
      break;  // one third each
    case MiddleMode::key: {
      const double keys = mean_keys(config.attention.window_of(layer), static_cast<double>(sequence_length));
      total += pair_flops(H_m, d, N, false, true) + 4.0 * H_m * d * keys;
      break;
    }
  }
  return total;
}

}  // namespace

ForwardFlops forward_flops(const ModelConfig& config, std::int64_t sequence_length) {
  const auto C = static_cast<double>(config.width);
  const auto hidden = static_cast<double>(config.feed_forward.resolved_hidden(config.width));
  const double matrices = config.feed_forward.kind == FeedForwardKind::swiglu ? 3.0 : 2.0;
  ForwardFlops flops{.head = 2.0 * C * static_cast<double>(config.vocab_size)};
  for (std::int64_t l = 0; l < config.layers; ++l) {
    flops.attention += attention_flops(config, l, sequence_length);
    flops.state += state_flops(config, l);
    flops.fusion += fusion_flops(config, l, sequence_length);
    flops.feed_forward += 2.0 * matrices * C * hidden;
  }
  return flops;
}

SequenceBytes sequence_bytes(const ModelConfig& config, std::int64_t sequence_length) {
  constexpr double element = 4.0;
  const auto C = static_cast<double>(config.width), T = static_cast<double>(sequence_length);
  const auto d = static_cast<double>(config.attention.head_size),
             N = static_cast<double>(config.state.head_size);
  SequenceBytes bytes;
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const std::int64_t window = config.attention.window_of(l);
    const double keys = window > 0 ? std::min(T, static_cast<double>(window - 1)) : T;
    double kv_heads =
        config.has_attention(l) ? static_cast<double>(config.attention.resolved_kv_heads()) : 0.0;
    if (config.is_hybrid(l) && config.middle.mode == MiddleMode::key)
      kv_heads += static_cast<double>(config.middle.resolved_heads(config.attention));
    bytes.key_value_cache += element * 2.0 * kv_heads * d * keys;
    if (config.has_state(l)) bytes.states += element * (static_cast<double>(config.state.heads) * N * N + C);
    if (config.feed_forward.kind == FeedForwardKind::rwkv) bytes.states += element * C;
  }
  return bytes;
}

}  // namespace wuneng::model
