// The tensor-core kernels of WKV-7, lane by lane, against the recurrence in double precision: every path of
// them, in all builds. wkv7_bf16_numbers_test.cpp has what needs no checked build.
#include <gtest/gtest.h>

#include "tests/kernels/emulated/wkv7_expect.h"

namespace wuneng::kernels::tests {
namespace {

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

TEST(Wkv7Bf16, DocumentsHaveStatesOfTheirOwn) {
  expect_reference(documents(64, false), "documents");
  expect_reference(documents(64, true), "own states");
  expect_reference(documents(128, true), "own states");
}

TEST(Wkv7Bf16, TheOutputDoesNotDependOnWhatElseIsKept) {
  const Wkv7Problem p = with_states(problem({1, 65, 1, 64}));
  EXPECT_EQ(Wkv7Passes<64>(p).output_alone(EmulatedLaunch(1)), run(p).y);
}

}  // namespace
}  // namespace wuneng::kernels::tests
