// The tensor-core kernels of WKV-7 on hostile inputs and long texts, their determinism and their cost: paths
// that wkv7_bf16_test.cpp takes too, so that the order build alone has to run them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/kernels/emulated/wkv7_expect.h"

namespace wuneng::kernels::tests {
namespace {

TEST(Wkv7Bf16Numbers, ADocumentAtARowsStartDropsItsState) {
  const Wkv7Problem p = documents(64, false);
  const Wkv7Bits bits = run(p);
  const auto row = bits.initial_state.begin();
  EXPECT_THAT(std::vector<float>(row, row + 64 * 64), testing::Each(0.0f));
}

class Wkv7Bf16Inputs : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Wkv7Bf16Inputs,
                         testing::Values(Kind::usual, Kind::fastest_decay, Kind::no_decay, Kind::turned,
                                         Kind::no_keys, Kind::large));

TEST_P(Wkv7Bf16Inputs, IsTheRecurrenceForwardAndBackward) {
  expect_reference(problem({1, 96, 1, 64}, GetParam()), name_of(GetParam()));
  expect_reference(with_states(problem({1, 65, 1, 64}, GetParam())), name_of(GetParam()));
  expect_reference(problem({1, 65, 1, 128}, GetParam()), name_of(GetParam()));
}

// The case that an inverse by a Neumann series does not survive.
TEST(Wkv7Bf16Numbers, RepeatedTokens) {
  constexpr double bar = .02;
  for (const Kind kind : {Kind::repeated, Kind::alike})
    for (const Shape& shape : {Shape{1, 16, 8, 64}, {1, 17, 8, 64}, {1, 64, 8, 64}, {1, 64, 4, 128}})
      expect_reference(problem(shape, kind), name_of(kind), {bar, bar, bar, bar});
}

// The sums over a chunk cancel to nothing at its first token, if they cancel as they should.
TEST(Wkv7Bf16Numbers, TheDecayOfAnEmptyStateDoesNotMatter) {
  const Wkv7Problem p = problem({1, 32, 1, 64}, Kind::fastest_decay);
  const Values gradient = values(run(p).log_decay);
  double first = 0, all = 0;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    if (i < 64) first = std::max(first, std::abs(gradient[i]));
    all = std::max(all, std::abs(gradient[i]));
  }
  EXPECT_LT(first, 1e-5 * all);
}

TEST(Wkv7Bf16Numbers, LongSequencesDoNotDrift) {
  const Wkv7Problem p = problem({1, 8192, 1, 64});
  const Wkv7Result result = values(run(p)), expected = reference(p);
  const auto quarter = [](const Values& x, int i) {
    const auto length = static_cast<std::ptrdiff_t>(x.size()) / 4;
    return Values(x.begin() + i * length, x.begin() + (i + 1) * length);
  };
  const auto error = [&](const Values& x, const Values& y, int i) {
    return error_ratio(quarter(x, i), quarter(y, i));
  };
  for (int i = 0; i < 4; ++i) {
    EXPECT_LE(error(result.y, expected.y, i), 5e-3) << "quarter " << i;
    EXPECT_LE(error(result.k, expected.k, i), 8e-3) << "quarter " << i;
    EXPECT_LE(error(result.log_decay, expected.log_decay, i), 6e-3) << "quarter " << i;
  }
  EXPECT_LT(error(result.y, expected.y, 3), 1.5 * error(result.y, expected.y, 0));  // state runs forwards
  EXPECT_LT(error(result.k, expected.k, 0), 1.5 * error(result.k, expected.k, 3));  // its gradient backwards
}

TEST(Wkv7Bf16Numbers, HeadsDoNotMeet) {
  const Wkv7Problem p = with_states(problem({2, 35, 3, 64}));
  const Wkv7Bits before = run(p);
  Wkv7Problem q = p;
  for (Values* x : {&q.r, &q.log_decay, &q.k, &q.v, &q.a, &q.b, &q.grad_y}) {
    for (std::size_t i = 0; i < x->size(); ++i)
      if (i / 64 % 3 == 1) (*x)[i] *= 0.5;
  }
  const Wkv7Bits after = run(q);
  const auto same = [](const auto& x, const auto& y, std::size_t elements_per_head) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      if (i / elements_per_head % 3 != 1) {
        ASSERT_EQ(x[i], y[i]) << "element " << i;
      }
    }
    EXPECT_NE(x, y);
  };
  same(before.y, after.y, 64), same(before.r, after.r, 64), same(before.log_decay, after.log_decay, 64);
  same(before.k, after.k, 64), same(before.v, after.v, 64), same(before.a, after.a, 64);
  same(before.b, after.b, 64), same(before.final_state, after.final_state, 64 * 64);
  same(before.initial_state, after.initial_state, 64 * 64);
}

TEST(Wkv7Bf16Numbers, TheScheduleDoesNotChangeABit) {
  for (const int N : {64, 128}) {
    const Wkv7Problem p = documents(N, true);
    const Wkv7Bits once = run(p, 0);
    for (int seed = 1; seed <= emulator::seeds(); ++seed)
      EXPECT_TRUE(run(p, seed) == once) << "seed " << seed;
  }
}

// Bank conflicts and barriers too many change no result, only the time.
TEST(Wkv7Bf16Numbers, WastesNeitherBanksNorBarriers) {
  for (const int N : {64, 128}) {
    const EmulatedLaunch launch(1);
    run(with_states(problem({1, 65, 1, N})), launch);
    ASSERT_EQ(launch.statistics.size(), 5u);
    const int value_parts = N / 64, barriers[] = {5, 3, 5, 3, 5 * value_parts + 2};
    for (int i = 0; i < 5; ++i) {
      EXPECT_EQ(launch.statistics[i].bank_conflicts, 0) << "kernel " << i;
      EXPECT_EQ(launch.statistics[i].barriers_per_block, barriers[i]) << "kernel " << i;
    }
  }
}

}  // namespace
}  // namespace wuneng::kernels::tests
