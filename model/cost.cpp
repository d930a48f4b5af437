#include "model/cost.h"

#include <algorithm>

#include "model/init.h"
#include "model/softmax_attention.h"

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
         (9.0 + 2.0 * static_cast<double>(s.boundary_states)) * H * N * N * reads +
         2.0 * H * N * N * (reads - 1.0);  // WKV-7, and W between two reads
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

// The channels per token below are those of the tensors that operators keep for their backward passes.

// Keys that a token's block of queries is given on average: all, or those that a window can reach from it.
double mean_gathered_keys(std::int64_t window, std::int64_t T) {
  if (window == 0 || T <= window) return static_cast<double>(T);
  double sum = 0.0;
  for (std::int64_t begin = 0; begin < T; begin += window_block) {
    const std::int64_t end = std::min(T, begin + window_block);
    sum += static_cast<double>((end - begin) * (end - std::max<std::int64_t>(0, begin - window + 1)));
  }
  return sum / static_cast<double>(T);
}

// What softmax attention adds to its inputs and its output: two capped scores per key, before and after the
// softmax; the outputs of a window's blocks, which are copies of what becomes the output.
double score_channels(const AttentionConfig& a, std::int64_t layer, double heads, std::int64_t T) {
  const std::int64_t window = a.window_of(layer);
  if (a.softcap > 0.0) return 2.0 * heads * mean_gathered_keys(window, T);
  const bool blocks = window > 0 && T > window && T > window_block;
  return blocks ? heads * static_cast<double>(a.head_size) : 0.0;
}

double attention_channels(const ModelConfig& config, std::int64_t layer, std::int64_t T) {
  const AttentionConfig& a = config.attention;
  if (!config.has_attention(layer)) return 0.0;
  const auto Q = static_cast<double>(a.heads * a.head_size),
             K = static_cast<double>(a.resolved_kv_heads() * a.head_size);
  const double before_norm = a.qk_norm ? Q + K : 0.0;
  // q, k, v as attention reads them, and its output
  return Q + 2.0 * K + Q + before_norm + score_channels(a, layer, static_cast<double>(a.heads), T);
}

double state_channels(const ModelConfig& config, std::int64_t layer) {
  const StateConfig& s = config.state;
  if (!config.has_state(layer)) return 0.0;
  const auto C = static_cast<double>(config.width), HN = static_cast<double>(s.heads * s.head_size),
             n = static_cast<double>(s.boundary_states);
  const bool residual = s.value_residual && layer != config.first_state_layer();
  const auto rank = [&](init::LowRank kind) { return static_cast<double>(init::low_rank(kind, config)); };
  const double ranks = rank(init::LowRank::decay) + rank(init::LowRank::rate) + rank(init::LowRank::gate) +
                       (residual ? rank(init::LowRank::value) : 0.0);
  // Shifted inputs: those of r, decay, rate and gate, and of k and v where something is made of them.
  const bool own = s.kv == StateKv::own;
  const double mixed = 4.0 + (own ? 2.0 : residual ? 1.0 : 0.0);
  // r, k, v, gate, the logits of decay and rate; log decay, k', a, b; y. Mixed values and their logit.
  // b before, exp(log decay) and that plus one, where signs can turn.
  const double heads = 11.0 + (residual ? 2.0 : 0.0) + (s.negative_eigenvalues ? 3.0 : 0.0);
  // A read keeps one state of N x N per N tokens, and of n boundaries states, queries and what was read.
  const double of_a_read = 1.0 + (n > 0.0 ? 3.0 * n + 3.0 : 0.0);
  // Between two reads y and r; chunks of the second are copies beside those of the first.
  const double between = n > 0.0 ? 4.0 : 2.0;
  const double reads = s.read == StateRead::dual ? 2.0 * of_a_read + between : of_a_read;
  const double output = config.is_hybrid(layer) ? 0.0 : HN;
  return mixed * C + ranks + HN * (heads + reads) + output;
}

// Of `heads` pairs: the state heads chosen for them, both heads joined, the state head lifted, the gate.
double pair_channels(double heads, double d, double N, bool joint, bool lift, bool chosen) {
  return heads *
         ((lift && chosen ? N : 0.0) + (joint ? d + N : 0.0) + (lift ? d : 0.0) + (joint && lift ? d : 0.0));
}

double middle_channels(const ModelConfig& config, std::int64_t layer, std::int64_t T) {
  const AttentionConfig& a = config.attention;
  const std::int64_t heads = config.middle.resolved_heads(a);
  const auto H = static_cast<double>(heads), d = static_cast<double>(a.head_size),
             N = static_cast<double>(config.state.head_size);
  const bool chosen = heads != config.state.heads;  // else the state heads themselves
  const bool chosen_of_kind = heads / 3 != config.state.heads;
  const double gated_attention = heads != a.heads ? d : 0.0;  // which attention heads a gate lets through
  const double output = H * d * (config.middle.norm ? 2.0 : 1.0);
  switch (config.middle.mode) {
    case MiddleMode::none:
      return 0.0;
    case MiddleMode::concat:
      return output + pair_channels(H, d, N, true, false, chosen);
    case MiddleMode::additive:
      return output + pair_channels(H, d, N, false, true, chosen);
    case MiddleMode::gated:
      return output + pair_channels(H, d, N, true, true, chosen) + H * gated_attention;
    case MiddleMode::mixed:
      return output + H / 3.0 *
                          (pair_channels(1.0, d, N, true, false, chosen_of_kind) +
                           pair_channels(1.0, d, N, false, true, chosen_of_kind) +
                           pair_channels(1.0, d, N, true, true, chosen_of_kind) + d);
    case MiddleMode::key:  // the lift; q, k, v, before a norm too
      return output + H * ((chosen ? N : 0.0) + d + (config.attention.qk_norm ? 5.0 : 3.0) * d) +
             score_channels(a, layer, H, T);
  }
  return 0.0;
}

double fusion_channels(const ModelConfig& config, std::int64_t layer, std::int64_t T) {
  if (!config.is_hybrid(layer)) return 0.0;
  const std::int64_t H_a = config.attention.heads, H_s = config.state.heads;
  const auto d = static_cast<double>(config.attention.head_size),
             N = static_cast<double>(config.state.head_size), A = static_cast<double>(H_a) * d,
             R = static_cast<double>(H_s) * N;
  const bool additive = config.fusion.mode == FusionMode::additive,
             gated = config.fusion.mode == FusionMode::gated, scaled = config.fusion.alpha != Alpha::fixed,
             all_paired = !(additive || gated) || H_a == H_s,
             normal_read = !additive || config.state.value == StateValue::attention;
  double total = config.fusion.attention_norm && normal_read ? A : 0.0;
  if (scaled) total += R;      // what alpha multiplies
  if (all_paired) total += R;  // what is read, if it is not chosen anew
  if (additive || gated) total += A + pair_channels(static_cast<double>(H_a), d, N, gated, true, !all_paired);
  return total + middle_channels(config, layer, T);
}

double feed_forward_channels(const ModelConfig& config) {
  const auto hidden = static_cast<double>(config.feed_forward.resolved_hidden(config.width));
  switch (config.feed_forward.kind) {
    case FeedForwardKind::swiglu:
      return 3.0 * hidden;
    case FeedForwardKind::rwkv:
      return 2.0 * hidden + static_cast<double>(config.width);
    default:
      return 2.0 * hidden;
  }
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

ActivationBytes activation_bytes(const ModelConfig& config, std::int64_t sequence_length) {
  constexpr double element = 4.0;
  const double C = element * static_cast<double>(config.width);
  ActivationBytes bytes{.residual = config.embedding_norm ? C : 0.0, .head = 2.0 * C};
  for (std::int64_t l = 0; l < config.layers; ++l) {
    bytes.residual += 4.0 * C;  // the stream before and after the mixer, and the norm of each
    bytes.attention += element * attention_channels(config, l, sequence_length);
    bytes.state += element * state_channels(config, l);
    bytes.fusion += element * fusion_channels(config, l, sequence_length);
    bytes.feed_forward += element * feed_forward_channels(config);
  }
  return bytes;
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
    const auto H = static_cast<double>(config.state.heads),
               n = static_cast<double>(config.state.boundary_states);
    if (config.has_state(l)) bytes.states += element * (H * N * N + C);
    if (config.has_state(l) && n > 0) bytes.states += element * H * (n * (N * N + N) + N);
    if (config.feed_forward.kind == FeedForwardKind::rwkv) bytes.states += element * C;
  }
  return bytes;
}

}  // namespace wuneng::model
