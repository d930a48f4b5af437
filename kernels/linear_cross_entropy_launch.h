// Launchers of linear_cross_entropy.h for both devices: what happens to a block of logits between the two
// sides' matrix products. Plain pointers, no tensors.
#pragma once

#include <cstdint>

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

// ------------------------------------------------------------------------ CUDA ----
// Element is float or device::bf16. Logits and gradient are 16-byte aligned, stride is a multiple of 8, V at
// most 2^24. A target of vocab or more makes NaN of the row's outputs. Returns 0 or the cudaError_t of a
// launch that failed.
template <class Element>
int logit_rows_cuda(const LogitRows<float, Element>& r, void* stream);

}  // namespace wuneng::kernels
