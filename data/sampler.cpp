#include "data/sampler.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>

#include "common/check.h"
#include "common/hash.h"

namespace wuneng::data {
namespace {

constexpr int feistel_rounds = 8;  // with four, the last of a few elements stays in place too often

// Fills row `row` of the batch with the T tokens from `begin` on, as far as the corpus goes; the targets are
// one token later.
void fill_row(const TokenFile& corpus, std::int64_t begin, bool separate, std::int64_t row, Batch& batch,
              std::vector<std::int64_t>& starts) {
  const std::int64_t T = batch.tokens.size(1);
  const std::int64_t inputs = std::clamp<std::int64_t>(corpus.tokens() - 1 - begin, 0, T);
  if (inputs == 0) return;
  std::vector<std::int64_t> stream(static_cast<std::size_t>(inputs + 1));
  corpus.read(begin, stream);
  auto* token = batch.tokens.mutable_data_ptr<std::int64_t>() + row * T;
  auto* target = batch.targets.mutable_data_ptr<std::int64_t>() + row * T;
  std::copy(stream.begin(), stream.end() - 1, token);
  std::copy(stream.begin() + 1, stream.end(), target);
  batch.real_tokens += inputs;
  if (!separate) return;
  const auto documents = corpus.document_starts();
  for (auto it = std::lower_bound(documents.begin(), documents.end(), begin);
       it != documents.end() && *it <= begin + inputs; ++it) {
    const std::int64_t t = *it - begin;
    if (t < inputs) starts.push_back(row * T + t);
    if (t == 0) continue;
    target[t - 1] = -1;  // nothing before a document tells how it begins
    --batch.real_tokens;
  }
}

// A batch whose row i begins at position begin(i) of the stream.
template <class Begin>
Batch make_batch(const TokenFile& corpus, std::int64_t rows, std::int64_t T, bool separate,
                 const Begin& begin) {
  WN_CHECK(rows >= 1, "a batch of {} sequences was asked for", rows);
  Batch batch{at::zeros({rows, T}, at::kLong), at::full({rows, T}, -1, at::kLong), {}, 0, {}};
  std::vector<std::int64_t> starts;
  for (std::int64_t row = 0; row < rows; ++row) fill_row(corpus, begin(row), separate, row, batch, starts);
  if (separate) {
    batch.document_starts = at::empty({static_cast<std::int64_t>(starts.size())}, at::kLong);
    std::copy(starts.begin(), starts.end(), batch.document_starts.mutable_data_ptr<std::int64_t>());
  }
  return batch;
}

}  // namespace

Permutation::Permutation(std::int64_t size, std::uint64_t key) : size_(size), key_(mix_bits(key)) {
  WN_CHECK(size >= 1, "a permutation of {} elements was asked for", size);
  const int bits = std::bit_width(static_cast<std::uint64_t>(size - 1));
  half_bits_ = std::max(1, (bits + 1) / 2);
}

std::int64_t Permutation::operator()(std::int64_t index) const {
  WN_CHECK(index >= 0 && index < size_, "element {} of a permutation of {} was asked for", index, size_);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto x = static_cast<std::uint64_t>(index);
  do {  // four turns or fewer on average: the network's range is at most four times as large as ours
    std::uint64_t left = x >> half_bits_, right = x & mask;
    for (std::uint64_t round = 0; round < feistel_rounds; ++round) {
      const std::uint64_t next = left ^ (mix_bits(right ^ mix_bits(key_ + round)) & mask);
      left = right;
      right = next;
    }
    x = left << half_bits_ | right;
  } while (x >= static_cast<std::uint64_t>(size_));
  return static_cast<std::int64_t>(x);
}

TrainingSampler::TrainingSampler(const TokenFile& corpus, std::int64_t sequence_length, std::uint64_t seed,
                                 bool separate_documents)
    : corpus_(corpus),
      sequence_length_(sequence_length),
      seed_(seed),
      separate_documents_(separate_documents),
      samples_per_epoch_((corpus.tokens() - 1) / sequence_length) {
  WN_REQUIRE(
      samples_per_epoch_ >= 1,
      "{}: has {} tokens, too few for one sequence of data.sequence_length = {} and the token after it",
      corpus.prefix().string(), corpus.tokens(), sequence_length);
}

Batch TrainingSampler::batch(std::int64_t first, std::int64_t count) const {
  return make_batch(corpus_, count, sequence_length_, separate_documents_, [&](std::int64_t row) {
    const std::int64_t sample = first + row, epoch = sample / samples_per_epoch_;
    const Permutation order(samples_per_epoch_, mix_bits(seed_) + static_cast<std::uint64_t>(epoch));
    return order(sample % samples_per_epoch_) * sequence_length_;
  });
}

EvaluationSampler::EvaluationSampler(const TokenFile& corpus, std::int64_t sequence_length,
                                     bool separate_documents)
    : corpus_(corpus),
      sequence_length_(sequence_length),
      separate_documents_(separate_documents),
      samples_((corpus.tokens() - 1 + sequence_length - 1) / sequence_length) {
  WN_REQUIRE(samples_ >= 1, "{}: has {} token, so there is nothing to predict", corpus.prefix().string(),
             corpus.tokens());
}

Batch EvaluationSampler::batch(std::int64_t first, std::int64_t count) const {
  return make_batch(corpus_, count, sequence_length_, separate_documents_,
                    [&](std::int64_t row) { return (first + row) * sequence_length_; });
}

}  // namespace wuneng::data
