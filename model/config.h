// The shape of a model. One struct reaches the Transformer (state.heads = 0), RWKV-7 (attention.heads = 0)
// and the WuNeng between.
#pragma once

#include <cstdint>

namespace wuneng::model {

// Causal softmax attention. heads = 0 turns it off.
struct AttentionConfig {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;  // grouped keys and values; 0: as many as heads
  std::int64_t head_size = 64;
  double rope_base = 10000.0;

  std::int64_t resolved_kv_heads() const { return kv_heads > 0 ? kv_heads : heads; }
};

// RWKV-7 state heads. heads = 0 turns them off. Ranks of the low-rank maps: 0 takes the official formula from
// the width.
struct StateConfig {
  std::int64_t heads = 2;
  std::int64_t head_size = 64;
  std::int64_t decay_rank = 0;
  std::int64_t rate_rank = 0;   // in-context learning rate
  std::int64_t value_rank = 0;  // value residual
  std::int64_t gate_rank = 0;
};

enum class FusionMode { concat };   // [A; alpha R] W_o
enum class Alpha { fixed, layer };  // fixed at 1, or learnable, one per layer

// How state heads join the attention heads before the output projection.
struct FusionConfig {
  FusionMode mode = FusionMode::concat;
  Alpha alpha = Alpha::layer;
  bool attention_norm =
      true;  // RMS norm of each attention head before the fusion; only where a layer has state heads
};

enum class FeedForwardKind { swiglu, rwkv };

struct FeedForwardConfig {
  FeedForwardKind kind = FeedForwardKind::swiglu;
  std::int64_t hidden =
      0;  // channels; 0: swiglu 8/3 of the width rounded up to a multiple of 64, rwkv 4 times the width

  std::int64_t resolved_hidden(std::int64_t width) const;
};

enum class NormKind { rms, layer };
enum class InitKind { normal, rwkv };

struct ModelConfig {
  std::int64_t width = 256;
  std::int64_t layers = 6;
  std::int64_t vocab_size = 257;
  AttentionConfig attention;
  StateConfig state;
  FusionConfig fusion;
  FeedForwardConfig feed_forward;
  NormKind norm = NormKind::rms;
  double norm_eps = 1e-5;
  bool embedding_norm = false;       // RWKV's LN0 after the embedding
  bool tied_head = false;            // the output head shares the embedding's matrix
  InitKind init = InitKind::normal;  // of embedding, attention, feed-forward and head; state heads always
                                     // start as RWKV-7's do
};

// Checks what one field cannot tell by itself (divisibility, at least one kind of head ...). Throws
// UsageError with the numbers.
void check(const ModelConfig& config);

}  // namespace wuneng::model
