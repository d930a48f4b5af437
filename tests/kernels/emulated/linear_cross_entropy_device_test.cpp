// The device code of the output head's loss, lane by lane: rows of logits, their losses and their gradient
// against the definition in float64.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "kernels/linear_cross_entropy.cuh"
#include "tests/kernels/emulated/tensors.h"

namespace wuneng::kernels::tests {
namespace {

using Targets = std::vector<std::int64_t>;

struct Shape {
  std::int64_t rows, vocab, V;

  std::int64_t stride() const { return (V + 7) / 8 * 8 + 8; }
};

struct Penalties {
  float z_loss = 0.0f, pull = 0.0f;
};

// ------------------------------------------------------------------- definition ----

// -log softmax(z)[target], its penalties, and the gradient of both in z.
struct Row {
  double loss = 0.0, objective = 0.0;
  Values gradient;
  Values allowed;  // error of the gradient, per unit of rounding, where terms of other sizes are added
};

Row by_definition(const float* z, std::int64_t target, const Shape& s, const Penalties& p) {
  Row row{0.0, 0.0, Values(s.V), Values(s.V)};
  if (target < 0) return row;
  const auto largest = std::max_element(z, z + s.vocab) - z;  // the first of them
  const double most = z[largest];
  double sum = 0.0;
  for (std::int64_t c = 0; c < s.vocab; ++c) sum += std::exp(z[c] - most);
  const double log_sum = most + std::log(sum);
  row.loss = log_sum - z[target];
  row.objective = row.loss + p.z_loss * log_sum * log_sum + p.pull * most * most / 2.0;
  for (std::int64_t c = 0; c < s.vocab; ++c)
    row.gradient[c] = (1.0 + 2.0 * p.z_loss * log_sum) * std::exp(z[c] - log_sum);
  for (const auto& [c, term] : {std::pair{target, -1.0}, {largest, p.pull * most}}) {
    row.gradient[c] += term;
    row.allowed[c] += std::abs(term) + std::abs(row.gradient[c] - term);
  }
  return row;
}

// ------------------------------------------------------------------------- launch ----

std::vector<float> normal_logits(const Shape& s, double scale) {
  std::vector<float> logits;
  for (const double z : normal_values(s.rows * s.V, static_cast<unsigned>(s.rows + s.V), scale))
    logits.push_back(static_cast<float>(z));
  return logits;
}

// The first column, the last, a row that is no token, one in the middle.
Targets some_targets(const Shape& s) {
  Targets targets{0, s.vocab - 1, -1, s.vocab / 2};
  targets.resize(s.rows, s.vocab / 3);
  return targets;
}

// What one launch reads and writes, for float in place. Nobody writes between V and stride.
template <class Element>
struct Launch {
  Shape shape;
  GuardedBuffer<float> logits;
  GuardedBuffer<bf16> beside;  // of a gradient in bf16
  GuardedBuffer<std::int64_t> targets;
  GuardedBuffer<float> losses, objectives;

  Launch(const Shape& s, const std::vector<float>& z, const Targets& wanted)
      : shape(s),
        logits(s.rows * s.stride()),
        beside(s.rows * s.stride()),
        targets(wanted),
        losses(s.rows),
        objectives(s.rows) {
    for (std::int64_t i = 0; i < s.rows; ++i)
      for (std::int64_t c = 0; c < s.V; ++c) logits[i * s.stride() + c] = z[i * s.V + c];
  }

  const GuardedBuffer<Element>& gradient() const {
    if constexpr (std::is_same_v<Element, float>)
      return logits;
    else
      return beside;
  }

  emulator::Statistics run(const Penalties& p, int seed, bool with_gradient = true) {
    const LogitRows<float, Element> rows{logits.data(),
                                         with_gradient ? gradient().data() : nullptr,
                                         targets.data(),
                                         losses.data(),
                                         objectives.data(),
                                         shape.rows,
                                         shape.vocab,
                                         shape.V,
                                         shape.stride(),
                                         p.z_loss,
                                         p.pull};
    return emulator::launch(logit_row<Element>, {static_cast<unsigned>(shape.rows)}, logit_row_threads,
                            sizeof(RowShared), {.seed = static_cast<unsigned>(seed)}, rows);
  }

  void expect_same_bits(const Launch& other) const {
    EXPECT_TRUE(same_bits(losses, other.losses.values()));
    EXPECT_TRUE(same_bits(objectives, other.objectives.values()));
    EXPECT_TRUE(same_bits(gradient(), other.gradient().values()));
  }
};

template <class Element>
bool untouched(const Element& x) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(&x);
  return std::all_of(bytes, bytes + sizeof(x), [](unsigned char byte) { return byte == 0xff; });
}

// --------------------------------------------------------------------- comparison ----

// Every element by itself; padding is zero, what lies beyond V is as it was.
template <class Element>
void expect_gradient(const Launch<Element>& got, const Row& want, std::int64_t i) {
  constexpr double bar = std::is_same_v<Element, float> ? 1e-5 : 3.95e-3, rounding = 2e-7, flushed = 1e-37;
  const Shape& s = got.shape;
  for (std::int64_t c = 0; c < s.stride(); ++c) {
    const Element x = got.gradient()[i * s.stride() + c];
    if (c >= s.V) {
      EXPECT_TRUE(untouched(x)) << "row " << i << ", column " << c;
      continue;
    }
    const double w = want.gradient[c], error = std::abs(as_double(x) - w);
    const double allowed = w == 0.0 ? 0.0 : bar * std::abs(w) + rounding * want.allowed[c] + flushed;
    ASSERT_TRUE(error <= allowed) << "row " << i << ", column " << c << ": " << as_double(x) << ", not " << w;
  }
}

template <class Element>
void expect_rows(const Shape& s, const Penalties& p, const std::vector<float>& logits,
                 const Targets& targets) {
  SCOPED_TRACE(testing::Message() << s.rows << " rows, " << s.vocab << " of " << s.V << " columns");
  std::unique_ptr<Launch<Element>> first;
  for (int seed = 0; seed < emulator::seeds(); ++seed) {
    auto got = std::make_unique<Launch<Element>>(s, logits, targets);
    EXPECT_EQ(got->run(p, seed).barriers_per_block, 1);
    for (std::int64_t i = 0; i < s.rows; ++i) {
      const Row want = by_definition(logits.data() + i * s.V, targets[i], s, p);
      EXPECT_NEAR(got->losses[i], want.loss, 5e-7 * (1.0 + want.loss));
      EXPECT_NEAR(got->objectives[i], want.objective, 2e-6 * std::abs(want.objective));
      expect_gradient(*got, want, i);
    }
    if (first) got->expect_same_bits(*first);
    if (!first) first = std::move(got);
  }
}

template <class Element>
void expect_rows(const Shape& s, const Penalties& p = {}, double scale = 3.0) {
  expect_rows<Element>(s, p, normal_logits(s, scale), some_targets(s));
}

constexpr Penalties both{.z_loss = 1e-2f, .pull = 3e-2f};

// -------------------------------------------------------------------------- tests ----

// One column, a few, a few more than threads, and several rounds of the threads; with a tail and without.
const Shape shapes[] = {{4, 1, 1}, {4, 7, 7}, {5, 257, 257}, {4, 1000, 1000}, {5, 4097, 4097}};
const Shape padded[] = {{4, 1, 9}, {4, 6, 7}, {4, 200, 257}, {5, 1000, 1016}, {4, 4096, 4700}};

TEST(LinearCrossEntropyDevice, LossAndGradientAreTheirDefinition) {
  for (const Shape& s : shapes) {
    expect_rows<float>(s);
    expect_rows<float>(s, both);
  }
}

TEST(LinearCrossEntropyDevice, InBf16TheyAreTheirDefinition) {
  for (const Shape& s : shapes) {
    expect_rows<bf16>(s);
    expect_rows<bf16>(s, both);
  }
}

TEST(LinearCrossEntropyDevice, PaddingTakesNoPart) {
  for (const Shape& s : padded) {
    expect_rows<float>(s, both);
    expect_rows<bf16>(s, both);
  }
}

TEST(LinearCrossEntropyDevice, LargeLogitsNeitherOverflowNorLoseTheSmallDifferences) {
  for (const double scale : {1e4, -1e4}) {
    const Shape s{5, 1000, 1003};
    expect_rows<float>(s, both, std::abs(scale));
    std::vector<float> shifted = normal_logits(s, 2.0);  // far away, but close to each other
    for (float& z : shifted) z += static_cast<float>(scale);
    expect_rows<float>(s, {}, shifted, some_targets(s));
    expect_rows<bf16>(s, {}, shifted, some_targets(s));
  }
}

TEST(LinearCrossEntropyDevice, ThePullGoesToTheFirstOfEqualMaxima) {
  const Shape s{3, 4097, 4100};
  for (const auto& [one, other] : {std::pair{5, 6}, {9, 4096}, {700, 4090}, {4095, 4096}, {2000, 2001}}) {
    std::vector<float> logits = normal_logits(s, 1.0);
    for (std::int64_t i = 0; i < s.rows; ++i) logits[i * s.V + one] = logits[i * s.V + other] = 6.5f;
    expect_rows<float>(s, both, logits, {one, other, 17});
    expect_rows<bf16>(s, both, logits, {one, other, 17});
  }
}

template <class Element>
void expect_not_a_number(const Targets& targets, const std::vector<float>& logits, const Shape& s) {
  Launch<Element> got(s, logits, targets);
  got.run(both, 1);
  for (std::int64_t i = 0; i < s.rows; ++i) {
    EXPECT_TRUE(std::isnan(got.losses[i]) && std::isnan(got.objectives[i])) << "row " << i;
    for (std::int64_t c = 0; c < s.V; ++c) {
      const double x = as_double(got.gradient()[i * s.stride() + c]);
      EXPECT_TRUE(c < s.vocab ? std::isnan(x) : x == 0.0) << "row " << i << ", column " << c;
    }
  }
}

TEST(LinearCrossEntropyDevice, TargetsOutsideTheVocabularyShow) {
  const Shape s{3, 30, 37};
  const Targets outside{30, 37, std::int64_t{1} << 40};
  expect_not_a_number<float>(outside, normal_logits(s, 1.0), s);
  expect_not_a_number<bf16>(outside, normal_logits(s, 1.0), s);
}

TEST(LinearCrossEntropyDevice, LogitsThatAreNoNumberShow) {
  const Shape s{3, 1001, 1003};
  for (const float bad : {std::nanf(""), HUGE_VALF}) {
    std::vector<float> logits = normal_logits(s, 1.0);
    for (const auto& [row, column] : {std::pair{0, 0}, {1, 600}, {2, 1000}}) logits[row * s.V + column] = bad;
    expect_not_a_number<float>({4, 600, 5}, logits, s);
    expect_not_a_number<bf16>({4, 600, 5}, logits, s);
  }
}

template <class Element>
void expect_losses_alone(const Shape& s) {
  const std::vector<float> logits = normal_logits(s, 3.0);
  Launch<Element> with(s, logits, some_targets(s)), alone(s, logits, some_targets(s));
  with.run(both, 1);
  alone.run(both, 2, false);
  EXPECT_TRUE(same_bits(alone.losses, with.losses.values()));
  EXPECT_TRUE(same_bits(alone.objectives, with.objectives.values()));
  for (std::int64_t i = 0; i < s.rows; ++i)
    for (std::int64_t c = 0; c < s.V; ++c) {
      EXPECT_EQ(alone.logits[i * s.stride() + c], logits[i * s.V + c]);
      EXPECT_TRUE(untouched(alone.beside[i * s.stride() + c]));
    }
}

TEST(LinearCrossEntropyDevice, WithoutAGradientTheLogitsStay) {
  expect_losses_alone<float>({4, 600, 605});
  expect_losses_alone<bf16>({4, 600, 605});
}

}  // namespace
}  // namespace wuneng::kernels::tests
