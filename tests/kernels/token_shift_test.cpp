#include "kernels/token_shift.h"

#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <set>

#include "common/check.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/refusals.h"

namespace wuneng::kernels::tests {
namespace {

// The definition, token by token.
Op definition(const std::set<std::int64_t>& starts) {
  return [starts](const std::vector<at::Tensor>& in) {
    const at::Tensor &x = in[0], &mix = in[1];
    const std::int64_t B = x.size(0), T = x.size(1), C = x.size(2);
    std::vector<at::Tensor> rows;
    for (std::int64_t b = 0; b < B; ++b) {
      std::vector<at::Tensor> row;
      for (std::int64_t t = 0; t < T; ++t) {
        const bool cut = starts.contains(b * T + t);
        row.push_back(cut             ? at::zeros({C}, x.options())
                      : t > 0         ? x[b][t - 1]
                      : in.size() > 2 ? in[2][b]
                                      : at::zeros({C}, x.options()));
      }
      rows.push_back(at::stack(row));
    }
    const at::Tensor before = at::stack(rows);
    std::vector<at::Tensor> out;
    for (std::int64_t m = 0; m < mix.size(0); ++m) out.push_back(x.add(before.sub(x).mul(mix[m])));
    return out;
  };
}

TEST(TokenShift, IsItsDefinitionWithCarriedTokensAndDocuments) {
  for (const std::int64_t C : {1, 7, 64}) {
    const std::vector<at::Tensor> inputs{normal({3, 19, C}, 1), normal({6, C}, 2), normal({3, C}, 3)};
    expect_equal([](const auto& in) { return token_shift(in[0], in[1]); }, definition({}),
                 {inputs[0], inputs[1]});
    expect_equal([](const auto& in) { return token_shift(in[0], in[1], in[2]); }, definition({}), inputs);
    const at::Tensor starts =
        at::tensor({std::int64_t{0}, std::int64_t{1}, std::int64_t{18}, std::int64_t{25}});
    expect_equal([&](const auto& in) { return token_shift(in[0], in[1], in[2], starts); },
                 definition({0, 1, 18, 25}), inputs);
  }
  expect_equal([](const auto& in) { return token_shift(in[0], in[1], in[2]); }, definition({}),
               {normal({2, 1, 5}, 1), normal({1, 5}, 2), normal({2, 5}, 3)});
}

TEST(TokenShift, MisuseIsRefused) {
  EXPECT_THROW(token_shift(normal({2, 3, 4}, 1), normal({6, 5}, 1)), Error);
  EXPECT_THROW(token_shift(normal({2, 3, 4}, 1), normal({6, 4}, 1), normal({3, 4}, 1)), Error);
  EXPECT_THROW(token_shift(normal({2, 3, 4}, 1), normal({6, 4}, 1), {}, at::tensor({std::int64_t{6}})),
               Error);
  EXPECT_THROW(token_shift(normal({2, 3, 4}, 1), normal({6, 4}, 1), {},
                           at::tensor({std::int64_t{3}, std::int64_t{3}})),
               Error);
}

TEST(TokenShift, OutputsThatNobodyUsesHaveNoGradient) {
  const std::vector<at::Tensor> inputs{normal({2, 9, 8}, 1), normal({3, 8}, 2), normal({2, 8}, 3)};
  const auto shift = [](const auto& in) { return token_shift(in[0], in[1], in[2]); };
  const Derivatives used = differentiate([&](const auto& in) { return std::vector{shift(in)[1]}; }, inputs);
  const Derivatives zeroed = differentiate(
      [&](const auto& in) {
        const std::vector<at::Tensor> out = shift(in);
        return std::vector{out[1].add(out[0].mul(0.0)).add(out[2].mul(0.0))};
      },
      inputs);
  for (std::size_t i = 0; i < inputs.size(); ++i)
    EXPECT_TRUE(used.gradients[i].equal(zeroed.gradients[i])) << "gradient of input " << i;
}

TEST(TokenShift, ShapesThatCudaCannotTakeAreRefused) {
  const auto shift = [](std::int64_t C, std::int64_t M) {
    token_shift(pretended_cuda({1, 2, C}, at::kBFloat16), pretended_cuda({M, C}, at::kBFloat16));
  };
  EXPECT_EQ(cuda_refusal([&] { shift(12, 6); }, "C must be a multiple of 8 on CUDA"), "");
  EXPECT_EQ(cuda_refusal([&] { shift(16, 2); }, "1 or 6 interpolations on CUDA"), "");
}

}  // namespace
}  // namespace wuneng::kernels::tests
