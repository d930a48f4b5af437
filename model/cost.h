// What a model costs: operations per token, the memory of a training step's activations, and the memory that
// a sequence takes while text is generated.
#pragma once

#include <cstdint>

#include "model/config.h"

namespace wuneng::model {

// Floating-point operations of one token's forward pass in sequences of T tokens: 2 per weight of every
// matrix product, 4 N per attended key and head (half of T on average without a window), and 9 N^2 per state
// head and read (S a, S r, and the three-term update). A training step takes three times as many.
struct ForwardFlops {
  double attention = 0.0, state = 0.0;  // with their rows of the output projection
  double fusion = 0.0;                  // paired heads and middle heads, with the latter's rows
  double feed_forward = 0.0, head = 0.0;

  double total() const { return attention + state + fusion + feed_forward + head; }
};
ForwardFlops forward_flops(const ModelConfig& config, std::int64_t sequence_length);

// Bytes per token that a forward pass in float32 on sequences of T tokens keeps for the backward pass:
// growing with T only where scores are capped, of which two are kept per query and key. Left out: a few
// numbers per row (statistics of norms), and what documents inside a row add.
struct ActivationBytes {
  double residual = 0.0;  // the stream between mixers and feed-forwards, and its norms
  double attention = 0.0, state = 0.0, fusion = 0.0, feed_forward = 0.0;
  double head = 0.0;  // the fused loss keeps the gradient of its input, and no logits

  double total() const { return residual + attention + state + fusion + feed_forward + head; }
};
ActivationBytes activation_bytes(const ModelConfig& config, std::int64_t sequence_length);

// Bytes that a sequence of T tokens keeps between tokens, in float32: keys and values that later tokens may
// still see, and the states with the last token that token shift looks back at.
struct SequenceBytes {
  double key_value_cache = 0.0, states = 0.0;
};
SequenceBytes sequence_bytes(const ModelConfig& config, std::int64_t sequence_length);

}  // namespace wuneng::model
