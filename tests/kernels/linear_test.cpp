// linear.h against its definition, and where the gradients of weights go.
#include "kernels/linear.h"

#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "common/check.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

at::Tensor product(const at::Tensor& x, const at::Tensor& weight) { return x.matmul(weight.t()); }

TEST(Linear, EachIsItsDefinition) {
  expect_equal(
      [](const auto& in) {
        return linear_each(in[0], {in[1], in[2], in[3]});
      },
      [](const auto& in) {
        return std::vector{product(in[0], in[1]), product(in[0], in[2]), product(in[0], in[3])};
      },
      {normal({3, 50, 24}, 1), normal({40, 24}, 2), normal({8, 24}, 3), normal({1, 24}, 4)},
      SameBits::in_float32);
}

TEST(Linear, SumIsItsDefinition) {
  expect_equal(
      [](const auto& in) {
        return std::vector{linear_sum({in[0], in[1]}, {in[2], in[3]})};
      },
      [](const auto& in) { return std::vector{product(in[0], in[2]).add(product(in[1], in[3]))}; },
      {normal({3, 50, 24}, 1), normal({3, 50, 7}, 2), normal({40, 24}, 3), normal({40, 7}, 4)},
      SameBits::in_float32);
}

struct Leaves {
  at::Tensor x = normal({9, 5}, 1).requires_grad_(), weight = normal({4, 5}, 2).requires_grad_();
  at::Tensor objective() const {
    return linear_each(x, weight)[0].square().sum().add(linear_sum(x, weight).sum());
  }
};

TEST(Linear, BackwardAddsToTheGradientThatWaits) {
  const Leaves alone, waiting;
  alone.objective().backward();
  const at::Tensor buffer = normal({4, 5}, 3), before = buffer.clone();
  waiting.weight.mutable_grad() = buffer;
  waiting.objective().backward();
  EXPECT_TRUE(waiting.weight.grad().is_same(buffer));
  EXPECT_LT(error_ratio(buffer, alone.weight.grad().add(before)), 1e-14);
  EXPECT_TRUE(waiting.x.grad().equal(alone.x.grad()));
}

TEST(Linear, GradReturnsTheGradientAndLeavesTheOneThatWaits) {
  const Leaves alone, asked;
  alone.objective().backward();
  asked.weight.mutable_grad() = at::zeros_like(asked.weight);
  const auto gradients = torch::autograd::grad({asked.objective()}, {asked.weight});
  EXPECT_TRUE(gradients[0].equal(alone.weight.grad()));
  EXPECT_EQ(asked.weight.grad().abs().max().item<double>(), 0.0);
}

TEST(Linear, GradientsGoWhereTheyAreWanted) {
  const Leaves frozen;
  frozen.weight.set_requires_grad(false);
  frozen.objective().backward();
  EXPECT_TRUE(frozen.x.grad().defined());
  EXPECT_FALSE(frozen.weight.grad().defined());
  const at::Tensor x = normal({9, 5}, 1), used = normal({4, 5}, 2).requires_grad_(),
                   unused = normal({4, 5}, 3).requires_grad_();
  linear_each(x, {used, unused})[0].sum().backward();
  EXPECT_TRUE(used.grad().defined());
  EXPECT_FALSE(unused.grad().defined());
}

TEST(Linear, MisuseIsRefused) {
  EXPECT_THROW(linear_each(normal({2, 3}, 1), normal({4, 5}, 2)), Error);
  EXPECT_THROW(linear_sum({normal({2, 3}, 1)}, {}), Error);
}

}  // namespace
}  // namespace wuneng::kernels::tests
