// activation.h, rope.h, cross_entropy.h and sum_of_squares.h against their definitions.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/log_softmax.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/check.h"
#include "kernels/activation.h"
#include "kernels/cross_entropy.h"
#include "kernels/rope.h"
#include "kernels/sum_of_squares.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

TEST(Activation, SwigluAndSquaredReluAreTheirDefinitions) {
  expect_equal([](const auto& in) { return std::vector{swiglu(in[0], in[1])}; },
               [](const auto& in) { return std::vector{in[0].mul(in[0].sigmoid()).mul(in[1])}; },
               {normal({5, 40, 129}, 1).mul(5), normal({5, 40, 129}, 2)});
  expect_equal([](const auto& in) { return std::vector{squared_relu(in[0])}; },
               [](const auto& in) { return std::vector{in[0].relu().square()}; }, {normal({50000}, 3)});
  EXPECT_THROW(swiglu(normal({2}, 1), normal({3}, 1)), Error);
}

TEST(Activation, SaturatesWithoutOverflow) {
  const at::Tensor x = at::tensor({-1e4f, -100.0f, 0.0f, 100.0f, 1e4f}), one = at::full({5}, 1.0f);
  EXPECT_TRUE(swiglu(x, one).allclose(at::tensor({0.0f, 0.0f, 0.0f, 100.0f, 1e4f})));
}

TEST(Rope, RotatesPairsByPositionTimesFrequency) {
  const std::int64_t first = 5;
  const double base = 100.0;
  const Op definition = [&](const auto& in) {
    const std::int64_t T = in[0].size(1), N = in[0].size(3);
    const at::Tensor frequency =
        at::pow(at::Scalar(base), at::arange(N / 2, at::kDouble).mul(-2.0 / static_cast<double>(N)));
    const at::Tensor angle =
        at::arange(first, first + T, at::kDouble).unsqueeze(1).mul(frequency).view({1, T, 1, N / 2});
    const at::Tensor a = in[0].narrow(3, 0, N / 2), b = in[0].narrow(3, N / 2, N / 2);
    return std::vector{
        at::cat({a.mul(angle.cos()).sub(b.mul(angle.sin())), b.mul(angle.cos()).add(a.mul(angle.sin()))}, 3)};
  };
  for (const std::int64_t N : {2, 16, 64})
    expect_equal([&](const auto& in) { return std::vector{rope(in[0], first, base)}; }, definition,
                 {normal({2, 33, 3, N}, 1)});
  EXPECT_THROW(rope(normal({1, 1, 1, 3}, 1), 0, base), Error);
}

TEST(CrossEntropy, IsMinusTheLogOfTheSoftmax) {
  for (const auto& [n, V] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {70, 17}, {33, 2048}}) {
    const at::Tensor targets = at::randint(0, V, {n}, at::detail::createCPUGenerator(4), at::kLong);
    targets[0] = -1;  // not a real token
    const Op definition = [&](const auto& in) {
      const at::Tensor picked =
          at::log_softmax(in[0], 1).gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1).neg();
      return std::vector{picked.mul(targets.ge(0).to(in[0].scalar_type()))};
    };
    if (V > 1)
      expect_equal([&, V = V](const auto& in) { return std::vector{cross_entropy(in[0], targets, V)}; },
                   definition, {normal({n, V}, 5).mul(3)});
  }
}

TEST(CrossEntropy, SurvivesLargeLogitsAndIgnoresPadding) {
  const at::Tensor logits = normal({4, 12}, 1, at::kFloat).mul(1e4);
  logits.narrow(1, 10, 2).fill_(std::numeric_limits<float>::infinity());
  logits.requires_grad_();
  const at::Tensor losses = cross_entropy(
      logits, at::tensor({std::int64_t{0}, std::int64_t{9}, std::int64_t{-1}, std::int64_t{3}}), 10);
  losses.backward(at::full({4}, 1.0f));
  EXPECT_TRUE(losses.isfinite().all().item<bool>());
  EXPECT_EQ(losses[2].item<float>(), 0.0f);
  EXPECT_TRUE(logits.grad().isfinite().all().item<bool>());
  EXPECT_EQ(logits.grad().narrow(1, 10, 2).abs().max().item<float>(), 0.0f);
  EXPECT_EQ(logits.grad()[2].abs().max().item<float>(), 0.0f);
  EXPECT_LT(logits.grad().sum(1).abs().max().item<float>(), 1e-5);
}

TEST(CrossEntropy, TargetsOutsideTheVocabularyAreNamed) {
  try {
    cross_entropy(normal({2, 5}, 1), at::tensor({std::int64_t{1}, std::int64_t{5}}), 5);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("target 5 at row 1"));
  }
}

TEST(SumOfSquares, IsExactForIntegersAndIndependentOfThreads) {
  const at::Tensor x = at::randint(-100, 101, {100003}, at::detail::createCPUGenerator(2), at::kFloat);
  EXPECT_EQ(sum_of_squares(x), x.to(at::kDouble).square().sum().item<double>());
  const at::Tensor y = normal({300001}, 3, at::kFloat);
  at::set_num_threads(1);
  const double one = sum_of_squares(y);
  at::set_num_threads(2);
  EXPECT_EQ(sum_of_squares(y), one);
  EXPECT_NEAR(one, y.to(at::kDouble).square().sum().item<double>(), 1e-9 * one);
}

}  // namespace
}  // namespace wuneng::kernels::tests
