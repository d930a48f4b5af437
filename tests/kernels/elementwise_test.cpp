// activation.h, rope.h, linear_cross_entropy.h, adamw.h and sum_of_squares.h against their definitions.
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/logsumexp.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/check.h"
#include "kernels/activation.h"
#include "kernels/adamw.h"
#include "kernels/linear_cross_entropy.h"
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
  const double base = 100.0, step = 0.375;
  const Op definition = [&](const auto& in) {
    const std::int64_t T = in[0].size(1), N = in[0].size(3);
    const at::Tensor frequency =
        at::pow(at::Scalar(base), at::arange(N / 2, at::kDouble).mul(-2.0 / static_cast<double>(N)));
    const at::Tensor angle = at::arange(first, first + T, at::kDouble)
                                 .mul(step)
                                 .unsqueeze(1)
                                 .mul(frequency)
                                 .view({1, T, 1, N / 2});
    const at::Tensor a = in[0].narrow(3, 0, N / 2), b = in[0].narrow(3, N / 2, N / 2);
    return std::vector{
        at::cat({a.mul(angle.cos()).sub(b.mul(angle.sin())), b.mul(angle.cos()).add(a.mul(angle.sin()))}, 3)};
  };
  for (const std::int64_t N : {2, 16, 64})
    expect_equal([&](const auto& in) { return std::vector{rope(in[0], first, base, step)}; }, definition,
                 {normal({2, 33, 3, N}, 1)});
  EXPECT_THROW(rope(normal({1, 1, 1, 3}, 1), 0, base), Error);
}

// logits = hidden weight^T, written out with LibTorch's operators.
at::Tensor objective_by_definition(const at::Tensor& hidden, const at::Tensor& weight,
                                   const at::Tensor& targets, LogitPenalties penalties) {
  const at::Tensor logits = hidden.matmul(weight.t()), log_sum = logits.logsumexp(1);
  const at::Tensor picked = logits.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1);
  const at::Tensor each = log_sum.sub(picked)
                              .add(log_sum.square().mul(penalties.z_loss))
                              .add(logits.amax(1).square().mul(penalties.pull / 2));
  return each.mul(targets.ge(0).to(hidden.scalar_type())).sum();
}

TEST(LinearCrossEntropy, IsTheHeadAndMinusTheLogOfItsSoftmax) {
  // The last shape takes several blocks of tokens.
  for (const auto& [n, V] : {std::pair<std::int64_t, std::int64_t>{1, 2}, {70, 17}, {230, 70001}})
    for (const LogitPenalties penalties : {LogitPenalties{}, {.z_loss = 1e-2, .pull = 3e-2}}) {
      const at::Tensor targets = at::randint(0, V, {n}, at::detail::createCPUGenerator(4), at::kLong);
      if (n > 1) targets[0] = -1;  // not a real token
      const at::Tensor hidden = normal({n, 24}, 5), weight = normal({V, 24}, 6).mul(0.5);
      expect_equal(
          [&, V = V](const auto& in) {
            return std::vector{linear_cross_entropy(in[0], in[1], targets, V, penalties).objective};
          },
          [&](const auto& in) {
            return std::vector{objective_by_definition(in[0], in[1], targets, penalties)};
          },
          {hidden, weight}, SameBits::in_float32);
      const at::Tensor losses = linear_cross_entropy(hidden, weight, targets, V, penalties).losses;
      const at::Tensor expected = objective_by_definition(hidden, weight, targets, {});
      EXPECT_NEAR(losses.sum().item<double>(), expected.item<double>(), 1e-10 * expected.item<double>());
    }
}

TEST(LinearCrossEntropy, SurvivesLargeLogitsAndIgnoresPadding) {
  const at::Tensor hidden = normal({4, 8}, 1, at::kFloat).mul(1e4), weight = normal({12, 8}, 2, at::kFloat);
  const at::Tensor targets =
      at::tensor({std::int64_t{0}, std::int64_t{9}, std::int64_t{-1}, std::int64_t{3}});
  const Op op = [&](const auto& in) {
    return std::vector{linear_cross_entropy(in[0], in[1], targets, 10).objective};
  };
  const Derivatives d = differentiate(op, {hidden, weight});
  EXPECT_TRUE(d.outputs[0].isfinite().all().item<bool>());
  for (const at::Tensor& gradient : d.gradients) EXPECT_TRUE(gradient.isfinite().all().item<bool>());
  EXPECT_EQ(d.gradients[0][2].abs().max().item<float>(), 0.0f);
  EXPECT_EQ(d.gradients[1].narrow(0, 10, 2).abs().max().item<float>(), 0.0f);
  at::Tensor other = weight.clone();
  other.narrow(0, 10, 2).fill_(7.0f);
  EXPECT_TRUE(differentiate(op, {hidden, other}).outputs[0].equal(d.outputs[0]));
}

TEST(LinearCrossEntropy, TargetsOutsideTheVocabularyAreNamed) {
  try {
    linear_cross_entropy(normal({2, 3}, 1), normal({5, 3}, 2), at::tensor({std::int64_t{1}, std::int64_t{5}}),
                         5);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("target 5 at row 1"));
  }
}

TEST(SumsOfSquares, AreExactForIntegersAndIndependentOfThreads) {
  const auto exact = [](const at::Tensor& x) { return x.to(at::kDouble).square().view({-1, 1000}).sum(1); };
  const at::Tensor x = at::randint(-100, 101, {100000}, at::detail::createCPUGenerator(2), at::kFloat);
  EXPECT_TRUE(sums_of_squares(x, 1000).equal(exact(x)));
  const at::Tensor y = normal({300000}, 3, at::kFloat);
  at::set_num_threads(1);
  const at::Tensor one = sums_of_squares(y, 1000);
  at::set_num_threads(2);
  EXPECT_TRUE(sums_of_squares(y, 1000).equal(one));
  EXPECT_LT(one.sub(exact(y)).abs().max().item<double>(), 1e-9);
  EXPECT_THROW(sums_of_squares(y, 999), Error);
}

TEST(AdamW, AnElementsBitsDependNeitherOnThreadsNorOnHowTheElementsAreSharedOut) {
  constexpr std::int64_t n = 100003;
  const AdamWStep step{
      .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-8, .weight_decay = 0.1, .scale = 0.3, .updates = 3};
  const auto updated = [&](int threads, std::int64_t cut) {
    at::set_num_threads(threads);
    const at::Tensor w = normal({n}, 1, at::kFloat), g = normal({n}, 2, at::kFloat),
                     m = normal({n}, 3, at::kFloat), v = normal({n}, 4, at::kFloat).square();
    for (std::int64_t begin = 0; begin < n; begin += cut) {
      const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, std::min(cut, n - begin)); };
      adamw(part(w), part(g), part(m), part(v), step);
    }
    return at::cat({w, m, v});
  };
  const at::Tensor whole = updated(1, n);
  EXPECT_TRUE(updated(2, n).equal(whole));
  for (const std::int64_t cut : {3, 7, 1000}) EXPECT_TRUE(updated(2, cut).equal(whole)) << cut;
}

}  // namespace
}  // namespace wuneng::kernels::tests
