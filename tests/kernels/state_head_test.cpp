#include "kernels/state_head.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/check.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/refusals.h"

namespace wuneng::kernels::tests {
namespace {

constexpr double eps = 64e-5;

TEST(StateHead, PreparationIsItsDefinition) {
  const Op ours = [](const auto& in) {
    const StateHeadInputs out = prepare_state_head(in[0], in[1], in[2], in[3], in[4]);
    return std::vector{out.log_decay, out.k, out.a, out.b};
  };
  const Op definition = [](const auto& in) {
    const at::Tensor alpha = in[1].sigmoid(), removed = in[2].mul(in[3]);
    const at::Tensor kappa = removed.div(removed.square().sum(-1, true).sqrt().clamp_min(1e-12));
    return std::vector{in[0].sigmoid().mul(-std::exp(-0.5)), in[2].mul(alpha.sub(1).mul(in[4]).add(1)),
                       kappa.neg(), kappa.mul(alpha)};
  };
  for (const std::int64_t N : {2, 7, 64})
    expect_equal(ours, definition,
                 {normal({2, 21, 3, N}, 1), normal({2, 21, 3, N}, 2), normal({2, 21, 3, N}, 3),
                  normal({3, N}, 4), normal({3, N}, 5)});
}

TEST(StateHead, ZeroKeysAndSaturatedLogitsStayFinite) {
  const std::vector<at::Tensor> inputs{
      at::full({1, 2, 1, 8}, 1e4, at::kFloat), at::full({1, 2, 1, 8}, -1e4, at::kFloat),
      at::zeros({1, 2, 1, 8}, at::kFloat), normal({1, 8}, 1, at::kFloat), normal({1, 8}, 2, at::kFloat)};
  const Derivatives d = differentiate(
      [](const auto& in) {
        const StateHeadInputs out = prepare_state_head(in[0], in[1], in[2], in[3], in[4]);
        return std::vector{out.log_decay, out.k, out.a, out.b};
      },
      inputs);
  for (const at::Tensor& x : d.outputs) EXPECT_TRUE(x.isfinite().all().item<bool>());
  for (const at::Tensor& x : d.gradients) EXPECT_TRUE(x.isfinite().all().item<bool>());
  EXPECT_NEAR(d.outputs[0].min().item<double>(), -std::exp(-0.5), 1e-6);
}

TEST(StateHead, EpilogueIsItsDefinition) {
  const Op ours = [](const auto& in) {
    return std::vector{finish_state_head(in[0], in[1], in[2], in[3], in[4], in[5], in[6], in[7], eps)};
  };
  const Op definition = [](const auto& in) {
    const at::Tensor centred = in[0].sub(in[0].mean(-1, true));
    const at::Tensor normed =
        centred.mul(centred.square().mean(-1, true).add(eps).rsqrt()).mul(in[6]).add(in[7]);
    const at::Tensor bonus = in[1].mul(in[2]).mul(in[5]).sum(-1, true);
    return std::vector{normed.add(bonus.mul(in[3])).mul(in[4])};
  };
  for (const std::int64_t N : {7, 64}) {
    std::vector<at::Tensor> inputs;
    for (std::uint64_t i = 0; i < 5; ++i) inputs.push_back(normal({2, 21, 3, N}, i));
    for (std::uint64_t i = 5; i < 8; ++i) inputs.push_back(normal({3, N}, i));
    expect_equal(ours, definition, inputs);
  }
}

TEST(StateHead, ValueMixIsItsDefinition) {
  expect_equal([](const auto& in) { return std::vector{mix_values(in[0], in[1], in[2])}; },
               [](const auto& in) { return std::vector{in[0].add(in[1].sub(in[0]).mul(in[2].sigmoid()))}; },
               {normal({2, 40, 3, 64}, 1), normal({2, 40, 3, 64}, 2), normal({2, 40, 3, 64}, 3)});
}

TEST(StateHead, MisuseIsRefused) {
  const at::Tensor x = normal({1, 2, 1, 8}, 1), w = normal({1, 8}, 2);
  EXPECT_THROW(prepare_state_head(x, x, x, w, normal({2, 8}, 1)), Error);
  EXPECT_THROW(prepare_state_head(x, normal({1, 3, 1, 8}, 1), x, w, w), Error);
  EXPECT_THROW(finish_state_head(x, x, x, x, x.transpose(1, 3), w, w, w, eps), Error);
}

TEST(StateHead, OutputsThatNobodyUsesHaveNoGradient) {
  const std::vector<at::Tensor> inputs{normal({2, 5, 3, 64}, 1), normal({2, 5, 3, 64}, 2),
                                       normal({2, 5, 3, 64}, 3), normal({3, 64}, 4), normal({3, 64}, 5)};
  const auto prepare = [](const auto& in) { return prepare_state_head(in[0], in[1], in[2], in[3], in[4]); };
  const Derivatives used = differentiate([&](const auto& in) { return std::vector{prepare(in).b}; }, inputs);
  const Derivatives zeroed = differentiate(
      [&](const auto& in) {
        const StateHeadInputs out = prepare(in);
        return std::vector{out.b.add(out.log_decay.mul(0.0)).add(out.k.mul(0.0)).add(out.a.mul(0.0))};
      },
      inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    EXPECT_TRUE(used.gradients[i].equal(zeroed.gradients[i])) << "gradient of input " << i;
}

TEST(StateHead, ShapesThatCudaCannotTakeAreRefused) {
  const auto prepare = [](std::int64_t H, std::int64_t N) {
    const at::Tensor x = pretended_cuda({1, 2, H, N}, at::kBFloat16),
                     w = pretended_cuda({H, N}, at::kBFloat16);
    prepare_state_head(x, x, x, w, w);
  };
  EXPECT_EQ(cuda_refusal([&] { prepare(1, 32); }, "head size N must be 64 or 128 on CUDA"), "");
  EXPECT_EQ(cuda_refusal([&] { prepare(65536, 64); }, "at most 65535 heads on CUDA"), "");
  const at::Tensor x = pretended_cuda({3, 4}, at::kFloat);
  EXPECT_EQ(cuda_refusal([&] { mix_values(x, x, x); }, "a multiple of 8 elements is needed on CUDA"), "");
}

}  // namespace
}  // namespace wuneng::kernels::tests
