// What a run trains on and is evaluated on, whatever makes it: sample number n is a pure function of n.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wuneng::data {

// A micro-batch: B sequences of T tokens.
struct Batch {
  at::Tensor tokens;           // [B, T] int64
  at::Tensor targets;          // [B, T] int64: what to predict, or -1 where there is nothing to predict
  at::Tensor document_starts;  // [D] int64, positions b*T + t where a document begins inside a row or at its
                               // first token; see wkv7.h
  std::int64_t real_tokens = 0;            // targets that are not -1
  std::vector<std::int64_t> special_rows;  // in order: rows of the subset that a task also reports apart
};

class Samples {
 public:
  virtual ~Samples() = default;
  // Samples [first, first + count) as one micro-batch; count >= 1.
  virtual Batch batch(std::int64_t first, std::int64_t count) const = 0;
};

// Samples that end: rows from samples() on are empty, with targets of -1 only.
class FiniteSamples : public Samples {
 public:
  virtual std::int64_t samples() const = 0;
};

}  // namespace wuneng::data
