// Which tokens make up sample number n of a run: a pure function of (corpus, seed, n), so the position in the
// data is one integer and never depends on the number of ranks.
#pragma once

#include <cstdint>

#include "data/samples.h"
#include "data/token_file.h"

namespace wuneng::data {

// A bijection of [0, size) computed without a table: a Feistel network on the next even power of two, walked
// until inside.
class Permutation {
 public:
  Permutation(std::int64_t size, std::uint64_t key);
  std::int64_t operator()(std::int64_t index) const;  // Error outside [0, size)

 private:
  std::int64_t size_;
  std::uint64_t key_;
  int half_bits_;
};

// Training: the corpus cut into sequences of T tokens, visited once per epoch in an order that changes every
// epoch.
class TrainingSampler : public Samples {
 public:
  // `separate_documents`: list document starts and do not predict a document's first token from the document
  // before it. Throws UsageError when the corpus is shorter than one sequence.
  TrainingSampler(const TokenFile& corpus, std::int64_t sequence_length, std::uint64_t seed,
                  bool separate_documents);

  std::int64_t samples_per_epoch() const { return samples_per_epoch_; }
  // Samples are counted over all epochs.
  Batch batch(std::int64_t first, std::int64_t count) const override;

 private:
  const TokenFile& corpus_;
  std::int64_t sequence_length_;
  std::uint64_t seed_;
  bool separate_documents_;
  std::int64_t samples_per_epoch_;
};

// Evaluation: the corpus in order, every token predicted exactly once; the last sequences are padded with
// target -1.
class EvaluationSampler : public FiniteSamples {
 public:
  EvaluationSampler(const TokenFile& corpus, std::int64_t sequence_length, bool separate_documents);

  std::int64_t samples() const override { return samples_; }
  Batch batch(std::int64_t first, std::int64_t count) const override;

 private:
  const TokenFile& corpus_;
  std::int64_t sequence_length_;
  bool separate_documents_;
  std::int64_t samples_;
};

}  // namespace wuneng::data
