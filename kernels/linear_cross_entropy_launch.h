// Launchers of linear_cross_entropy.h for both devices: what happens to a block of logits between the two
// sides' matrix products. Plain pointers, no tensors.
#pragma once

#include <cstdint>
#include <limits>

namespace wuneng::device {
struct bf16;
}

namespace wuneng::kernels {

// Logits [rows, vocab], each row `stride` elements after the one before, and what becomes of them. With a
// gradient, columns from vocab to V of it are set to zero; what lies between V and stride is left alone.
template <class Logit, class Element = Logit>
struct LogitRows {
  const Logit* logits;
  Element* gradient;            // laid out like the logits, and may be the same memory; null: not wanted
  const std::int64_t* targets;  // [rows], negative: not a real token, all of its outputs are zero
  Logit *losses, *objectives;   // [rows]
  std::int64_t rows, vocab, V, stride;
  Logit z_loss, pull;
};

// ------------------------------------------------------------------------- CPU ----
// The rows [first, last). Targets are below vocab; the gradient is null or takes the logits' place.

void logit_rows(const LogitRows<float>& r, std::int64_t first, std::int64_t last);
void logit_rows(const LogitRows<double>& r, std::int64_t first, std::int64_t last);

// The same in two steps, where the logits are one shard's columns of a larger vocabulary: what the columns of
// a row come to, and what becomes of them once those of all shards are known.
struct RowSummary {
  double most;  // the largest logit, and its first column in this shard
  double largest;
  double sum;     // of e^(z - most)
  double target;  // the target's logit; -infinity where another shard has it
};
constexpr std::int64_t summary_numbers = 4;
constexpr std::int64_t target_elsewhere = std::numeric_limits<std::int64_t>::min();  // in another shard

// summary [rows]. With a gradient the exponentials stay in the logits' place.
void summarise_rows(const LogitRows<float>& r, RowSummary* summary, std::int64_t first, std::int64_t last);
void summarise_rows(const LogitRows<double>& r, RowSummary* summary, std::int64_t first, std::int64_t last);

// The summaries of every shard [shards, rows], in the order of their ids; `mine` is this shard's number.
struct ShardSummaries {
  const RowSummary* summaries;
  std::int64_t shards, mine;
};
void finish_rows(const LogitRows<float>& r, ShardSummaries all, std::int64_t first, std::int64_t last);
void finish_rows(const LogitRows<double>& r, ShardSummaries all, std::int64_t first, std::int64_t last);

// ------------------------------------------------------------------------ CUDA ----
// Element is float or device::bf16. Logits and gradient are 16-byte aligned, stride is a multiple of 8, V at
// most 2^24. A target of vocab or more makes NaN of the row's outputs. Returns 0 or the cudaError_t of a
// launch that failed.
template <class Element>
int logit_rows_cuda(const LogitRows<float, Element>& r, void* stream);

}  // namespace wuneng::kernels
