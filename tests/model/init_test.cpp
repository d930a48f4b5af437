#include "model/init.h"

#include <ATen/ops/eye.h>
#include <ATen/ops/matmul.h>
#include <gtest/gtest.h>

#include <cmath>

namespace wuneng::model::init {
namespace {

TEST(Init, RanksRoundHalfToEvenAndMatchTheOfficialTable) {
  const auto ranks = [](std::int64_t width) {
    ModelConfig config;
    config.width = width;
    config.state.heads = width / 64;
    return std::vector<std::int64_t>{low_rank(LowRank::decay, config), low_rank(LowRank::rate, config),
                                     low_rank(LowRank::value, config), low_rank(LowRank::gate, config)};
  };
  EXPECT_EQ(ranks(512), (std::vector<std::int64_t>{64, 64, 32, 128}));
  EXPECT_EQ(ranks(768), (std::vector<std::int64_t>{64, 64, 32, 128}));
  EXPECT_EQ(ranks(1024), (std::vector<std::int64_t>{64, 64, 64, 160}));  // 2.5 rounds to 2
  EXPECT_EQ(ranks(2048), (std::vector<std::int64_t>{128, 128, 64, 224}));
  EXPECT_EQ(ranks(4096), (std::vector<std::int64_t>{160, 160, 96, 320}));
}

TEST(Init, OrthogonalMatricesAreOrthogonalEitherWay) {
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{40, 24}, {24, 40}, {32, 32}}) {
    const at::Tensor w = orthogonal(2.0)({rows, cols}, 5);
    const at::Tensor gram = rows < cols ? w.matmul(w.t()) : w.t().matmul(w);
    EXPECT_TRUE(gram.allclose(at::eye(std::min(rows, cols)).mul(4.0), 1e-4, 1e-4));
  }
}

TEST(Init, SeedAndNothingElseDecides) {
  EXPECT_TRUE(normal(1.0)({8, 8}, 1).equal(normal(1.0)({8, 8}, 1)));
  EXPECT_FALSE(normal(1.0)({8, 8}, 1).equal(normal(1.0)({8, 8}, 2)));
}

// Values computed by hand from the published formulas.
TEST(Init, OfficialConstantsAtTheEnds) {
  const Depth first{0, 4}, last{3, 4};
  const at::Tensor decay = decay_bias(first, 64)({128}, 0);
  EXPECT_NEAR(decay[0].item<double>(), -6.0 + 0.5 - 2.5, 1e-6);  // n = 0: zigzag -1
  EXPECT_NEAR(decay[127].item<double>(), 0.5 + 2.5, 1e-6);       // n = C - 1: zigzag +1
  EXPECT_NEAR(decay_bias(last, 64)({129}, 0)[64].item<double>(), -6.0 + 6.0 * 0.25 + 0.5 - 2.5,
              1e-5);  // half way, exponent 2, a head's first channel
  EXPECT_NEAR(rate_bias(64)({128}, 0)[0].item<double>(), -0.19 - 0.3 - 0.2, 1e-6);
  EXPECT_NEAR(value_bias()({128}, 0)[127].item<double>(), 0.73 - 0.2, 1e-6);
  EXPECT_NEAR(removal_key()({2, 64}, 0)[1][63].item<double>(), 0.71 - 0.05, 1e-6);
  EXPECT_NEAR(state_norm_weight(last)({4}, 0)[0].item<double>(), 1.0, 1e-6);
  EXPECT_NEAR(state_norm_weight(first)({4}, 0)[0].item<double>(), std::pow(0.25, 0.7), 1e-6);
  const at::Tensor mix = time_mix(first)({6, 64}, 0);
  EXPECT_NEAR(mix[0][32].item<double>(), 1.0 - std::pow(0.5, 0.2), 1e-6);
  EXPECT_NEAR(mix[1][32].item<double>(), 1.0 - std::pow(0.5, 0.9), 1e-6);
  EXPECT_NEAR(mix[3][32].item<double>(), 1.0 - std::pow(0.5, 0.7), 1e-6);
  EXPECT_NEAR(channel_mix(last)({1, 64}, 0)[0][32].item<double>(), 1.0 - std::pow(0.5, std::pow(0.25, 4)),
              1e-6);
}

TEST(Init, OneLayerHasNoDepthToDivideBy) {
  EXPECT_FALSE(decay_bias({0, 1}, 64)({64}, 0).isnan().any().item<bool>());
  EXPECT_FALSE(time_mix({0, 1})({6, 64}, 0).isnan().any().item<bool>());
}

}  // namespace
}  // namespace wuneng::model::init
