// What WKV-7 works on: runs of tokens through which one state flows. Documents cut the rows of a batch into
// them; they are independent of each other, so every implementation knows sequences and no documents.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace wuneng::kernels {

struct Wkv7Sequence {
  std::int64_t begin;     // first token, counted through the batch: b * T + t
  std::int64_t length;    // tokens, at least 1
  std::int64_t initial;   // index of its initial state, -1: starts from zero
  std::int64_t final;     // index of its final state, -1: not kept
  std::int64_t kept = 0;  // states kept by the sequences before it, see wkv7_kept_states()
};

// Tokens between the states that the forward pass keeps for the backward pass in float32 and float64: those
// before a sequence's tokens 64, 128, ... (the first is the initial state).
constexpr std::int64_t wkv7_kept_tokens = 64;

inline std::int64_t wkv7_kept_states(std::int64_t length) { return (length - 1) / wkv7_kept_tokens; }

// The sequences of B rows of T tokens, in order. `starts`: increasing positions b * T + t at which documents
// begin. With states per document each sequence has its own initial and final state, in order; else each row
// has: its first sequence goes on from the row's initial state unless a document starts with it, and its last
// one leaves the row's final state.
std::vector<Wkv7Sequence> wkv7_sequences(std::int64_t B, std::int64_t T, std::span<const std::int64_t> starts,
                                         bool states_per_document);

}  // namespace wuneng::kernels
