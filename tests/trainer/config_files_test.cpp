// Every file in configs/ is a configuration, and its model trains. (Those in configs/ablations are plans:
// ablate_plan_test.cpp.)
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/randint.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numeric>

#include "model/language_model.h"
#include "trainer/config.h"

namespace wuneng::trainer {
namespace {

std::vector<std::filesystem::path> config_files() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(std::getenv("WUNENG_SOURCE")) / "configs"))
    if (entry.path().extension() == ".yaml" && entry.path().parent_path().filename() != "ablations")
      files.push_back(entry.path());
  return files;
}

// The same kinds of heads in the same proportions and layers, of a size that a test can afford.
model::ModelConfig reduced(model::ModelConfig config) {
  const std::int64_t groups = std::gcd(std::gcd(config.attention.heads, config.attention.kv_heads),
                                       std::gcd(config.state.heads, config.middle.heads));
  for (std::int64_t* heads :
       {&config.attention.heads, &config.attention.kv_heads, &config.state.heads, &config.middle.heads})
    *heads /= groups;
  config.width = 128;
  config.vocab_size = 300;
  config.layers = std::max<std::int64_t>(2, std::ssize(config.pattern));
  config.attention.head_size = 16;
  config.feed_forward.hidden = 0;
  return config;
}

double loss_and_step(const model::LanguageModel& model, const at::Tensor& tokens, const at::Tensor& targets) {
  const at::Tensor objective = model.loss(tokens, targets).objective;
  for (const parallel::Parameter& p : model.parameters()) p.value.mutable_grad().reset();
  objective.backward();
  const at::NoGradGuard no_grad;
  for (const parallel::Parameter& p : model.parameters())
    if (p.value.grad().defined()) p.value.detach().sub_(p.value.grad(), 1e-3);
  return objective.item<double>();
}

TEST(ConfigFiles, AllOfThemLoadAndTakeTwoSteps) {
  const auto ids = [](std::uint64_t seed) {
    return at::randint(0, 300, {1, 24}, at::detail::createCPUGenerator(seed), at::kLong);
  };
  const auto alone = parallel::make_single();
  const std::vector<std::filesystem::path> files = config_files();
  EXPECT_GE(files.size(), 40u);
  for (const std::filesystem::path& file : files) {
    SCOPED_TRACE(file);
    const model::LanguageModel model(reduced(load_config(file).model), *alone, 1);
    const double first = loss_and_step(model, ids(1), ids(2)), second = loss_and_step(model, ids(1), ids(2));
    EXPECT_TRUE(std::isfinite(second));
    EXPECT_LT(second, first);
  }
}

}  // namespace
}  // namespace wuneng::trainer
