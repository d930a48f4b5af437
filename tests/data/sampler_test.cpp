#include "data/sampler.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/equal.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng::data {
namespace {

using testing::AllOf;
using testing::Each;
using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;
using Numbers = std::vector<std::int64_t>;

constexpr std::int64_t T = 8;

// A corpus in documents of these lengths whose token at position p is p: a row says itself where it begins.
struct Counting {
  explicit Counting(const Numbers& lengths) {
    TokenFileWriter writer(scratch / "corpus", 100000);
    std::int32_t next = 0;
    for (const std::int64_t length : lengths) {
      starts.insert(next);
      std::vector<std::int32_t> document(static_cast<std::size_t>(length));
      std::iota(document.begin(), document.end(), next);
      next += static_cast<std::int32_t>(length);
      writer.add_document(document);
    }
    writer.finish();
  }
  TokenFile open() const { return TokenFile(scratch / "corpus"); }

  Scratch scratch;
  std::set<std::int64_t> starts;
};

// Documents of one token, of whole sequences, longer than a sequence, and ones that begin at a row's edges:
// a multiple of T plus `more` tokens.
Numbers lengths_with(std::int64_t more) {
  Numbers lengths{8, 1, 7, 1, 1, 30, 8, 16, 4};
  std::mt19937 random(2);
  for (int i = 0; i < 20; ++i) lengths.push_back(1 + static_cast<std::int64_t>(random() % 15));
  const std::int64_t total = std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0});
  lengths.push_back(2 * T - total % T + more);
  return lengths;
}

Numbers numbers_of(const at::Tensor& tensor) {
  return tensor.defined() ? Numbers(tensor.const_data_ptr<std::int64_t>(),
                                    tensor.const_data_ptr<std::int64_t>() + tensor.numel())
                          : Numbers{};
}

// What a batch whose rows begin at these positions must hold, token by token.
void expect_rows(const Batch& batch, const Numbers& begins, std::int64_t corpus_tokens,
                 const std::set<std::int64_t>& starts) {
  Numbers tokens, targets, document_starts;
  for (const std::int64_t begin : begins)
    for (std::int64_t t = 0; t < T; ++t) {
      const std::int64_t position = begin + t;
      const bool predicts = position + 1 < corpus_tokens;
      if (predicts && starts.contains(position))
        document_starts.push_back(static_cast<std::int64_t>(tokens.size()));
      tokens.push_back(predicts ? position : 0);
      targets.push_back(predicts && !starts.contains(position + 1) ? position + 1 : -1);
    }
  EXPECT_EQ(batch.tokens.sizes(), (at::IntArrayRef{static_cast<std::int64_t>(begins.size()), T}));
  EXPECT_EQ(batch.targets.sizes(), batch.tokens.sizes());
  EXPECT_EQ(numbers_of(batch.tokens), tokens);
  EXPECT_EQ(numbers_of(batch.targets), targets);
  EXPECT_EQ(numbers_of(batch.document_starts), document_starts);
  EXPECT_EQ(batch.real_tokens,
            std::count_if(targets.begin(), targets.end(), [](auto target) { return target >= 0; }));
}

Numbers begins_of(const TrainingSampler& sampler, std::int64_t first, std::int64_t count) {
  return numbers_of(sampler.batch(first, count).tokens.select(1, 0).contiguous());
}

void expect_batch_of_its_rows(const Batch& batch, const std::vector<Batch>& rows) {
  std::vector<at::Tensor> tokens, targets;
  Numbers starts;
  std::int64_t real_tokens = 0;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    tokens.push_back(rows[row].tokens);
    targets.push_back(rows[row].targets);
    for (const std::int64_t start : numbers_of(rows[row].document_starts))
      starts.push_back(start + static_cast<std::int64_t>(row) * T);
    real_tokens += rows[row].real_tokens;
  }
  EXPECT_TRUE(at::equal(batch.tokens, at::cat(tokens)));
  EXPECT_TRUE(at::equal(batch.targets, at::cat(targets)));
  EXPECT_EQ(numbers_of(batch.document_starts), starts);
  EXPECT_EQ(batch.real_tokens, real_tokens);
}

TEST(Permutation, IsABijection) {
  Numbers sizes(300);
  std::iota(sizes.begin(), sizes.end(), 1);
  sizes.push_back(1000003);
  for (const std::int64_t size : sizes)
    for (const std::uint64_t key : {std::uint64_t{0}, std::uint64_t{1}, UINT64_MAX}) {
      const Permutation order(size, key);
      std::vector<bool> seen(static_cast<std::size_t>(size));
      for (std::int64_t i = 0; i < size; ++i) {
        const std::int64_t image = order(i);
        ASSERT_TRUE(image >= 0 && image < size) << size;
        ASSERT_FALSE(seen[static_cast<std::size_t>(image)]) << image << " comes twice of " << size;
        seen[static_cast<std::size_t>(image)] = true;
      }
    }
}

TEST(Permutation, OfNothingOrOfAnElementOutsideIsRefused) {
  for (const std::int64_t size : {std::int64_t{0}, std::int64_t{-1}, INT64_MIN})
    EXPECT_THAT(message_of<Error>([&] { Permutation(size, 1); }),
                HasSubstr(fmt::format("of {} elements", size)));
  for (const std::int64_t index : {std::int64_t{-1}, std::int64_t{10}, INT64_MAX, INT64_MIN})
    EXPECT_THAT(message_of<Error>([&] { Permutation(10, 1)(index); }),
                HasSubstr(fmt::format("element {} ", index)));
}

// Of 2^40 elements a sample: different images, inside, and as many in each sixteenth.
TEST(Permutation, OfManyElementsSpreadsASample) {
  constexpr std::int64_t size = (std::int64_t{1} << 40) - 12345, sample = 160000;
  const Permutation order(size, 5);
  std::set<std::int64_t> images;
  std::vector<int> hits(16);
  for (std::int64_t i = 0; i < sample; ++i) {
    const std::int64_t image = order(i % 2 ? i : size - 1 - i);
    ASSERT_TRUE(image >= 0 && image < size);
    images.insert(image);
    ++hits[static_cast<std::size_t>(image / (size / 16 + 1))];
  }
  EXPECT_EQ(std::ssize(images), sample);
  for (const int n : hits) EXPECT_NEAR(n, sample / 16, 600);  // six standard deviations
}

// In a random permutation about one element stays in place, and two random permutations agree on about one.
TEST(Permutation, LeavesLittleInPlaceAndDiffersByKey) {
  for (const std::int64_t size : {100, 1000, 100000})
    for (std::uint64_t key = 0; key < 8; ++key) {
      const Permutation order(size, key), other(size, key + 1);
      int fixed = 0, same = 0, neighbours = 0;
      for (std::int64_t i = 0; i < size; ++i) {
        fixed += order(i) == i;
        same += order(i) == other(i);
        neighbours += i > 0 && order(i) == order(i - 1) + 1;
      }
      EXPECT_LE(fixed, 10);
      EXPECT_LE(same, 10);
      EXPECT_LE(neighbours, 10);
    }
}

TEST(Permutation, SendsAnElementEverywhereEquallyOften) {
  constexpr int keys = 20000;
  for (const std::int64_t size : {2, 3, 5, 16, 100})
    for (const std::int64_t element : {std::int64_t{0}, size - 1}) {
      std::vector<int> hits(static_cast<std::size_t>(size));
      for (std::uint64_t key = 0; key < keys; ++key)
        ++hits[static_cast<std::size_t>(Permutation(size, key)(element))];
      const double expected = static_cast<double>(keys) / static_cast<double>(size);
      for (const int n : hits) EXPECT_NEAR(n, expected, 6 * std::sqrt(expected)) << "of " << size;
    }
}

TEST(TrainingSampler, EverySampleComesOncePerEpochInAnotherOrder) {
  const Counting corpus(lengths_with(5));
  const TokenFile file = corpus.open();
  const TrainingSampler sampler(file, T, 42, true);
  const std::int64_t samples = sampler.samples_per_epoch();
  ASSERT_EQ(samples, (file.tokens() - 1) / T);
  Numbers in_order;
  for (std::int64_t n = 0; n < samples; ++n) in_order.push_back(n * T);
  std::set<Numbers> orders;
  for (std::int64_t epoch = 0; epoch < 5; ++epoch) {
    const Numbers begins = begins_of(sampler, epoch * samples, samples);
    EXPECT_THAT(begins, testing::UnorderedElementsAreArray(in_order));
    EXPECT_NE(begins, in_order);
    EXPECT_TRUE(orders.insert(begins).second) << "epoch " << epoch << " repeats an order";
  }
  EXPECT_TRUE(orders.insert(begins_of(TrainingSampler(file, T, 43, true), 0, samples)).second)
      << "another seed repeats an order";
  EXPECT_FALSE(orders.insert(begins_of(TrainingSampler(file, T, 42, false), 0, samples)).second)
      << "the same seed makes another order";
}

TEST(TrainingSampler, ABatchIsItsSamplesOneByOne) {
  const Counting corpus(lengths_with(3));
  const TokenFile file = corpus.open();
  const TrainingSampler sampler(file, T, 7, true);
  for (std::int64_t first = 0; first < 2 * sampler.samples_per_epoch() + 3; ++first) {
    std::vector<Batch> rows;
    for (std::int64_t row = 0; row < 4; ++row) rows.push_back(sampler.batch(first + row, 1));
    expect_batch_of_its_rows(sampler.batch(first, 4), rows);
  }
}

TEST(TrainingSampler, TargetsFollowAndDocumentsAreSeparate) {
  for (const std::int64_t more : {0, 1, 2, 7}) {
    const Counting corpus(lengths_with(more));
    const TokenFile file = corpus.open();
    for (const bool separate : {true, false}) {
      const TrainingSampler sampler(file, T, 3, separate);
      EXPECT_EQ(sampler.samples_per_epoch(), (file.tokens() - 1) / T);
      for (std::int64_t first = 0; first < sampler.samples_per_epoch(); first += 3) {
        const Batch batch = sampler.batch(first, 3);
        expect_rows(batch, begins_of(sampler, first, 3), file.tokens(),
                    separate ? corpus.starts : std::set<std::int64_t>{});
        if (!separate) {
          EXPECT_THAT(numbers_of(batch.targets), Each(testing::Ge(0)));
        }
      }
    }
  }
}

TEST(TrainingSampler, ACorpusShorterThanASequenceIsRefused) {
  const Counting nine({4, 5}), eight({8});
  const TokenFile enough = nine.open(), short_of_one = eight.open();
  EXPECT_EQ(TrainingSampler(enough, T, 0, true).samples_per_epoch(), 1);
  EXPECT_THAT(message_of<UsageError>([&] { TrainingSampler(short_of_one, T, 0, true); }),
              AllOf(HasSubstr((eight.scratch / "corpus").string()), HasSubstr("8 tokens"),
                    HasSubstr("sequence_length = 8")));
}

TEST(TrainingSampler, ABatchOfNothingIsRefused) {
  const Counting corpus({20});
  const TokenFile file = corpus.open();
  for (const std::int64_t count : {0, -1}) {
    EXPECT_THAT(message_of<Error>([&] { TrainingSampler(file, T, 0, true).batch(0, count); }),
                HasSubstr(fmt::format("batch of {} ", count)));
    EXPECT_THAT(message_of<Error>([&] { EvaluationSampler(file, T, true).batch(0, count); }),
                HasSubstr(fmt::format("batch of {} ", count)));
  }
}

TEST(EvaluationSampler, PredictsEveryTokenOnceAndPadsTheRest) {
  for (std::int64_t more = 0; more < T; ++more) {
    const Counting corpus(lengths_with(more));
    const TokenFile file = corpus.open();
    for (const bool separate : {true, false}) {
      const std::set<std::int64_t> starts = separate ? corpus.starts : std::set<std::int64_t>{};
      const EvaluationSampler sampler(file, T, separate);
      ASSERT_EQ(sampler.samples(), (file.tokens() - 1 + T - 1) / T);
      Numbers predicted, expected;
      for (std::int64_t first = 0; first < sampler.samples() + 3; first += 3) {
        const Batch batch = sampler.batch(first, 3);
        expect_rows(batch, {first * T, (first + 1) * T, (first + 2) * T}, file.tokens(), starts);
        for (const std::int64_t target : numbers_of(batch.targets))
          if (target >= 0) predicted.push_back(target);
      }
      for (std::int64_t position = 1; position < file.tokens(); ++position)
        if (!starts.contains(position)) expected.push_back(position);
      EXPECT_EQ(predicted, expected);
    }
  }
}

TEST(EvaluationSampler, RowsBeyondTheCorpusAreAllPadding) {
  const Counting corpus({20});
  const TokenFile file = corpus.open();
  const EvaluationSampler sampler(file, T, true);
  for (const std::int64_t first : {sampler.samples(), sampler.samples() + 100}) {
    const Batch batch = sampler.batch(first, 2);
    EXPECT_THAT(numbers_of(batch.targets), Each(-1));
    EXPECT_EQ(batch.targets.numel(), 2 * T);
    EXPECT_EQ(batch.document_starts.numel(), 0);
    EXPECT_EQ(batch.real_tokens, 0);
  }
}

TEST(EvaluationSampler, ABatchIsItsSamplesOneByOne) {
  const Counting corpus(lengths_with(3));
  const TokenFile file = corpus.open();
  const EvaluationSampler sampler(file, T, true);
  for (std::int64_t first = 0; first <= sampler.samples(); ++first)
    expect_batch_of_its_rows(sampler.batch(first, 4),
                             {sampler.batch(first, 1), sampler.batch(first + 1, 1),
                              sampler.batch(first + 2, 1), sampler.batch(first + 3, 1)});
}

TEST(EvaluationSampler, ACorpusOfOneTokenIsRefused) {
  const Counting one({1}), two({2});
  const TokenFile nothing = one.open(), something = two.open();
  EXPECT_EQ(EvaluationSampler(something, T, true).samples(), 1);
  EXPECT_THAT(message_of<UsageError>([&] { EvaluationSampler(nothing, T, true); }),
              AllOf(HasSubstr((one.scratch / "corpus").string()), HasSubstr("1 token")));
}

}  // namespace
}  // namespace wuneng::data
