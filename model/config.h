// The shape of a model. One struct reaches the Transformer (state.heads = 0), RWKV-7 (attention.heads = 0)
// and the WuNeng between.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/linear_cross_entropy.h"

namespace wuneng::model {

enum class Positions { rope, none };           // of attention heads; none: the causal mask alone (NoPE)
enum class RopeScaling { none, linear, ntk };  // how rotary angles are stretched over longer texts

// Causal softmax attention. heads = 0 turns it off.
struct AttentionConfig {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 0;  // grouped keys and values; 0: as many as heads
  std::int64_t head_size = 64;
  Positions positions = Positions::rope;
  double rope_base = 10000.0;
  RopeScaling rope_scaling = RopeScaling::none;
  double rope_factor = 1.0;  // linear: positions are divided by it; ntk: the base grows with it
  bool qk_norm = false;      // RMS norm of each head's query and key, before positions (arXiv 2302.05442)
  std::int64_t window = 0;   // a token sees this many tokens, itself included; 0: all before it
  std::int64_t global_every = 0;  // every n-th layer sees everything despite the window; 0: none does
  double softcap = 0.0;           // scores s become softcap * tanh(s / softcap); 0: off

  std::int64_t resolved_kv_heads() const { return kv_heads > 0 ? kv_heads : heads; }
  std::int64_t window_of(std::int64_t layer) const {
    return global_every > 0 && (layer + 1) % global_every == 0 ? 0 : window;
  }
};

enum class StateKv { own, shared };          // whose keys and values: own projections or attention's
enum class StateValue { input, attention };  // what values are made of: the layer's input, or also A
enum class StateRead { single, dual };       // y = S r, or y = S W (S r)

// RWKV-7 state heads (state_heads.h). heads = 0 turns them off. Ranks of the low-rank maps: 0 takes the
// official formula from the width.
struct StateConfig {
  std::int64_t heads = 2;
  std::int64_t head_size = 64;
  StateKv kv = StateKv::own;
  StateValue value = StateValue::input;
  StateRead read = StateRead::single;
  std::int64_t boundary_states = 0;   // a token also reads the last so many chunk-boundary states
  bool negative_eigenvalues = false;  // transitions may turn the sign of what they remove
  bool value_residual = true;         // values are mixed with those of the first layer that has state heads
  std::int64_t decay_rank = 0;
  std::int64_t rate_rank = 0;   // in-context learning rate
  std::int64_t value_rank = 0;  // value residual
  std::int64_t gate_rank = 0;
};

// How state heads R, scaled by alpha, join the attention heads A before the output projection (fusion.h):
// beside them, added to them, or mixed in by a gate.
enum class FusionMode { concat, additive, gated };
enum class Alpha { fixed, layer, head };  // fixed at 1, or learnable, one per layer or per state head

struct FusionConfig {
  FusionMode mode = FusionMode::concat;
  Alpha alpha = Alpha::layer;
  bool attention_norm =
      true;  // RMS norm of each attention head before the fusion; only where a layer has state heads
};

// Middle heads: each combines one attention head and one state head (middle_heads.h). mixed: concat, additive
// and gated in turn.
enum class MiddleMode { none, concat, additive, gated, key, mixed };

struct MiddleConfig {
  MiddleMode mode = MiddleMode::none;
  std::int64_t heads = 0;  // 0: a quarter of the attention heads, at least one of each kind
  bool norm = true;        // RMS norm of each middle head

  std::int64_t resolved_heads(const AttentionConfig& attention) const;
};

enum class FeedForwardKind { swiglu, gelu, relu2, rwkv };

struct FeedForwardConfig {
  FeedForwardKind kind = FeedForwardKind::swiglu;
  // Channels; 0: swiglu 8/3 of the width rounded up to a multiple of 64, all others 4 times the width.
  std::int64_t hidden = 0;

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
  MiddleConfig middle;
  std::string pattern = "h";  // one letter per layer, repeated: h both kinds of heads, a attention, s state
  FeedForwardConfig feed_forward;
  NormKind norm = NormKind::rms;
  double norm_eps = 1e-5;
  bool embedding_norm = false;         // RWKV's LN0 after the embedding
  bool biases = false;                 // of the attention's and the feed-forward's matrices
  std::int64_t learned_positions = 0;  // longest text, with a learned vector per position; 0: none
  bool tied_head = false;              // the output head shares the embedding's matrix
  kernels::LogitPenalties penalties;   // on the logits, added to the loss that training differentiates
  InitKind init = InitKind::normal;    // of embedding, attention, feed-forward and head; state heads always
                                       // start as RWKV-7's do

  bool has_attention(std::int64_t layer) const { return attention.heads > 0 && letter(layer) != 's'; }
  bool has_state(std::int64_t layer) const { return state.heads > 0 && letter(layer) != 'a'; }
  bool is_hybrid(std::int64_t layer) const { return has_attention(layer) && has_state(layer); }
  std::int64_t first_state_layer() const;  // `layers` when no layer has state heads

 private:
  char letter(std::int64_t layer) const { return pattern[static_cast<std::size_t>(layer) % pattern.size()]; }
};

// Checks what one field cannot tell by itself (divisibility, at least one kind of head ...). Throws
// UsageError with the numbers.
void check(const ModelConfig& config);

// Throws UsageError unless `ranks` tensor-parallel ranks can share the model's heads and feed-forward
// channels out evenly; it names what does not divide, and the numbers of ranks that do.
void check_split(const ModelConfig& config, std::int64_t ranks);

}  // namespace wuneng::model
