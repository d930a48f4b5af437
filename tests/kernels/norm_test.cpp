#include "kernels/norm.h"

#include <gtest/gtest.h>

#include "common/check.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

constexpr double eps = 1e-5;

class Norm : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Widths, Norm, testing::Values(3, 7, 64, 257));

TEST_P(Norm, RmsNormIsItsDefinition) {
  const std::int64_t C = GetParam();
  const Op ours = [](const auto& in) { return std::vector{rms_norm(in[0], in[1], eps)}; };
  const Op definition = [](const auto& in) {
    return std::vector{in[0].mul(in[0].square().mean(-1, true).add(eps).rsqrt()).mul(in[1])};
  };
  expect_equal(ours, definition, {normal({3, 40, C}, 1), normal({C}, 2)});
  expect_equal(ours, definition, {normal({1, 1, C}, 3), normal({C}, 4)});
}

TEST_P(Norm, LayerNormIsItsDefinition) {
  const std::int64_t C = GetParam();
  const Op ours = [](const auto& in) { return std::vector{layer_norm(in[0], in[1], in[2], eps)}; };
  const Op definition = [](const auto& in) {
    const at::Tensor centred = in[0].sub(in[0].mean(-1, true));
    return std::vector{centred.mul(centred.square().mean(-1, true).add(eps).rsqrt()).mul(in[1]).add(in[2])};
  };
  expect_equal(ours, definition, {normal({3, 40, C}, 1), normal({C}, 2), normal({C}, 3)});
}

TEST_P(Norm, HeadsAreNormalisedByThemselves) {
  const std::int64_t N = GetParam();
  const Op ours = [](const auto& in) { return std::vector{head_rms_norm(in[0], in[1], eps)}; };
  const Op definition = [](const auto& in) {
    return std::vector{in[0].mul(in[0].square().mean(-1, true).add(eps).rsqrt()).mul(in[1])};
  };
  expect_equal(ours, definition, {normal({2, 37, 3, N}, 1), normal({3, N}, 2)});
}

TEST(NormMisuse, IsRefusedWithTheValues) {
  const at::Tensor x = normal({2, 8}, 1);
  EXPECT_THROW(rms_norm(x, normal({7}, 1), eps), Error);
  EXPECT_THROW(rms_norm(x, normal({8}, 1, at::kFloat), eps), Error);
  EXPECT_THROW(rms_norm(x.t(), normal({2}, 1), eps), Error);
  EXPECT_THROW(layer_norm(x, normal({8}, 1), normal({9}, 1), eps), Error);
}

}  // namespace
}  // namespace wuneng::kernels::tests
