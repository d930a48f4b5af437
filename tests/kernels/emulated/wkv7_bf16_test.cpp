// The tensor-core kernels of WKV-7, lane by lane, against the recurrence in double precision.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/kernels/emulated/wkv7_run.h"

namespace wuneng::kernels::tests {
namespace {

// Bars of rms(error) / rms(expected).
struct Bars {
  double y = 5e-3, final_state = 5e-3, gradient = 8e-3, log_decay = 6e-3;
};

void expect_reference(const Wkv7Problem& p, const Wkv7Bits& bits, const std::string& name,
                      const Bars& bars = {}) {
  const Wkv7Result result = values(bits), expected = reference(p);
  const auto close = [&](const char* what, const Values& x, const Values& y, double bar) {
    for (const double value : x) ASSERT_TRUE(std::isfinite(value)) << what << " of " << name;
    const double error = error_ratio(x, y);
    std::printf(" %s %.1e", what, error);
    EXPECT_LE(error, bar) << what << " of " << name;
  };
  std::printf("%-16s T %3d N %3d:", name.c_str(), p.T, p.N);
  close("y", result.y, expected.y, bars.y);
  close("S", result.final_state, expected.final_state, bars.final_state);
  close("dr", result.r, expected.r, bars.gradient);
  close("dw", result.log_decay, expected.log_decay, bars.log_decay);
  close("dk", result.k, expected.k, bars.gradient);
  close("dv", result.v, expected.v, bars.gradient);
  close("da", result.a, expected.a, bars.gradient);
  close("db", result.b, expected.b, bars.gradient);
  close("dS", result.initial_state, expected.initial_state, bars.gradient);
  std::printf("\n");
}

void expect_reference(const Wkv7Problem& p, const std::string& name, const Bars& bars = {}) {
  expect_reference(p, run(p), name, bars);
}

// The checked builds see every path of the kernels, but not every number.
bool numbers() { return emulator::build() == emulator::Build::order; }

std::vector<int> lengths() {
  return numbers() ? std::vector{1, 2, 31, 32, 33, 63, 65, 100, 1000} : std::vector{1, 65};
}

class Wkv7Bf16Lengths : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Tokens, Wkv7Bf16Lengths, testing::ValuesIn(lengths()));

TEST_P(Wkv7Bf16Lengths, IsTheRecurrenceForwardAndBackward) {
  const int T = GetParam();
  expect_reference(with_states(problem({1, T, 1, 64})), "states");
  // A first token's y is v times one number a head: many heads, to have an error and not one draw of it.
  expect_reference(problem({2, T, T < 8 ? 8 : 1, 64}), "no states");
  expect_reference(with_states(problem({1, T, 1, 128})), "states");
}

TEST(Wkv7Bf16, ManyRowsAndHeads) {
  expect_reference(with_states(problem({2, 33, 3, 64})), "B 2 H 3");
  if (numbers()) expect_reference(with_states(problem({2, 33, 2, 128})), "B 2 H 2");
}

// Row 0: documents of 1, 16, 17 and 31 tokens from its start on. Row 1 goes on with its state for 40 tokens.
Wkv7Problem documents(int N, bool states_per_document) {
  Wkv7Problem p = problem({2, 65, 1, N});
  p.starts = {0, 1, 17, 34, 65 + 40, 65 + 41};
  p.states_per_document = states_per_document;
  return with_states(p);
}

TEST(Wkv7Bf16, DocumentsHaveStatesOfTheirOwn) {
  expect_reference(documents(64, false), "documents");
  expect_reference(documents(64, true), "own states");
  expect_reference(documents(128, true), "own states");
}

TEST(Wkv7Bf16, TheOutputDoesNotDependOnWhatElseIsKept) {
  const Wkv7Problem p = with_states(problem({1, 65, 1, 64}));
  EXPECT_EQ(Wkv7Passes<64>(p).output_alone(EmulatedLaunch(1)), run(p).y);
}

TEST(Wkv7Bf16, ADocumentAtARowsStartDropsItsState) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
  const Wkv7Problem p = documents(64, false);
  const Wkv7Bits bits = run(p);
  const auto row = bits.initial_state.begin();
  EXPECT_THAT(std::vector<float>(row, row + 64 * 64), testing::Each(0.0f));
}

class Wkv7Bf16Inputs : public testing::TestWithParam<Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, Wkv7Bf16Inputs,
                         testing::Values(Kind::usual, Kind::fastest_decay, Kind::no_decay, Kind::no_keys,
                                         Kind::large));

TEST_P(Wkv7Bf16Inputs, IsTheRecurrenceForwardAndBackward) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
  expect_reference(problem({1, 96, 1, 64}, GetParam()), name_of(GetParam()));
  expect_reference(with_states(problem({1, 65, 1, 64}, GetParam())), name_of(GetParam()));
  expect_reference(problem({1, 65, 1, 128}, GetParam()), name_of(GetParam()));
}

// The case that an inverse by a Neumann series does not survive.
TEST(Wkv7Bf16, RepeatedTokens) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
  constexpr double bar = .02;
  for (const Kind kind : {Kind::repeated, Kind::alike})
    for (const Shape& shape : {Shape{1, 16, 8, 64}, {1, 17, 8, 64}, {1, 64, 8, 64}, {1, 64, 4, 128}})
      expect_reference(problem(shape, kind), name_of(kind), {bar, bar, bar, bar});
}

// The sums over a chunk cancel to nothing at its first token, if they cancel as they should.
TEST(Wkv7Bf16, TheDecayOfAnEmptyStateDoesNotMatter) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
  const Wkv7Problem p = problem({1, 32, 1, 64}, Kind::fastest_decay);
  const Values gradient = values(run(p).log_decay);
  double first = 0, all = 0;
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    if (i < 64) first = std::max(first, std::abs(gradient[i]));
    all = std::max(all, std::abs(gradient[i]));
  }
  EXPECT_LT(first, 1e-5 * all);
}

TEST(Wkv7Bf16, LongSequencesDoNotDrift) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
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

TEST(Wkv7Bf16, HeadsDoNotMeet) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
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

TEST(Wkv7Bf16, TheScheduleDoesNotChangeABit) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
  for (const int N : {64, 128}) {
    const Wkv7Problem p = documents(N, true);
    const Wkv7Bits once = run(p, 0);
    for (int seed = 1; seed <= emulator::seeds(); ++seed)
      EXPECT_TRUE(run(p, seed) == once) << "seed " << seed;
  }
}

// Bank conflicts and barriers too many change no result, only the time.
TEST(Wkv7Bf16, WastesNeitherBanksNorBarriers) {
  if (!numbers()) GTEST_SKIP() << "numbers only";
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
