#include "trainer/optimizer.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "parallel/flat_parameters.h"

namespace wuneng::trainer {
namespace {

TEST(LearningRate, WarmsUpLinearlyThenFollowsACosine) {
  const OptimizerConfig config{.lr = 1.0, .min_lr = 0.1, .warmup_steps = 10};
  EXPECT_DOUBLE_EQ(learning_rate(config, 1, 110), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(config, 10, 110), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(config, 60, 110), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 110, 110), 0.1);
  const OptimizerConfig constant{
      .lr = 0.5, .warmup_steps = 2, .schedule = OptimizerConfig::Schedule::constant};
  EXPECT_DOUBLE_EQ(learning_rate(constant, 1, 10), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(constant, 9, 10), 0.5);
}

// AdamW with decoupled decay (arXiv 1711.05101, algorithm 2) in double precision.
struct Reference {
  double value, m = 0.0, v = 0.0;
  void step(const OptimizerConfig& c, double gradient, double lr, double decay, int t) {
    m = c.beta1 * m + (1 - c.beta1) * gradient;
    v = c.beta2 * v + (1 - c.beta2) * gradient * gradient;
    value -= lr * decay * value;
    value -= lr * (m / (1 - std::pow(c.beta1, t))) / (std::sqrt(v / (1 - std::pow(c.beta2, t))) + c.eps);
  }
};

TEST(AdamW, IsThePublishedAlgorithmInEveryGroup) {
  const OptimizerConfig config{.weight_decay = 0.3};
  const auto draw = [](std::uint64_t seed) {
    return at::empty({37}, at::kFloat).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed));
  };
  parallel::Parameters parameters;
  const parallel::OptimizerGroup groups[] = {{true, 1.0}, {false, 1.0}, {false, 2.0}, {true, 1.0}};
  std::vector<std::vector<Reference>> references;
  for (std::uint64_t i = 0; i < 4; ++i) {
    parallel::Parameter parameter{"p" + std::to_string(i), draw(i), {37}};
    parameter.group = groups[i];
    references.emplace_back();
    for (std::int64_t j = 0; j < 37; ++j) references.back().push_back({parameter.value[j].item<double>()});
    parameters.push_back(parameter);
  }
  const auto group = parallel::make_single();
  parallel::Background background(*group);
  const parallel::FlatLayout layout(parameters, 1, 0, false);
  const parallel::FlatParameters flat(parameters, layout, background);
  AdamW optimizer(config, parameters, layout);
  for (int t = 1; t <= 5; ++t) {
    std::vector<at::Tensor> gradients;
    for (std::uint64_t i = 0; i < 4; ++i) gradients.push_back(draw(100 * static_cast<std::uint64_t>(t) + i));
    for (std::size_t i = 0; i < 4; ++i)
      for (std::int64_t j = 0; j < 37; ++j)
        references[i][static_cast<std::size_t>(j)].step(
            config, 0.5 * gradients[i][j].item<double>(), 0.01 * groups[i].lr_scale,
            groups[i].weight_decay ? config.weight_decay : 0.0, t);
    const at::Tensor gradient = at::zeros({layout.size()}, at::kFloat);
    for (std::size_t i = 0; i < 4; ++i) layout.views(gradient)[i].copy_(gradients[i]);
    optimizer.step(flat.values(), gradient, 0.01, 0.5);
  }
  EXPECT_EQ(optimizer.updates(), 5);
  for (std::size_t i = 0; i < 4; ++i)
    for (std::int64_t j = 0; j < 37; ++j)
      EXPECT_NEAR(parameters[i].value[j].item<double>(), references[i][static_cast<std::size_t>(j)].value,
                  2e-6)
          << i << " " << j;
  const AdamW::Moment& exp_avg = optimizer.moments()[0];
  EXPECT_EQ(exp_avg.name, "exp_avg");
  EXPECT_NEAR(layout.views(exp_avg.owned)[2][0].item<double>(), references[2][0].m, 1e-6);
}

}  // namespace
}  // namespace wuneng::trainer
