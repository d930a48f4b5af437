// The layers of every model, and the models, with their heads split over the ranks against the same ones
// whole: outputs, and the gradients of inputs and parameters.
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/gradient_norm.h"
#include "tests/model/every_model.h"
#include "tests/support/world.h"

namespace wuneng::model {
namespace {

constexpr double bar = 1e-11;

// The same kinds of heads in numbers that four ranks can share, two key heads by copies; those of state heads
// come in whole slices.
ModelConfig divisible(ModelConfig config) {
  if (config.attention.heads > 0) config.attention.heads = 8, config.attention.kv_heads = 2;
  if (config.state.heads > 0) config.state.heads = 4;
  if (config.state.kv == StateKv::shared)
    config.attention.kv_heads = 4, config.attention.head_size = config.state.head_size;
  if (config.middle.mode != MiddleMode::none)
    config.middle.heads = config.middle.mode == MiddleMode::mixed ? 12 : 4;
  return config;
}

void sum_partial_gradients(const parallel::Parameters& parameters, parallel::Communicator& group) {
  const parallel::FlatLayout layout(parameters, 1, 0, false);
  const at::Tensor flat = at::zeros({layout.size()}, at::kDouble);
  const std::vector<at::Tensor> views = layout.views(flat);
  for (std::size_t i = 0; i < views.size(); ++i) views[i].copy_(parameters[i].value.grad());
  parallel::sum_partial_gradients(flat, parameters, layout, group);
  for (std::size_t i = 0; i < views.size(); ++i) parameters[i].value.mutable_grad() = views[i];
}

// Mixers and feed-forwards without norms.
struct Layers {
  parallel::Stream stream;
  parallel::Parameters parameters;
  std::vector<Mixer> mixers;
  std::vector<FeedForward> feed_forwards;
  at::Tensor out, input;

  Layers(const ModelConfig& config, parallel::Communicator& group) : stream(group, false) {
    const parallel::LayerBuilder builder(parameters, group, 1);
    for (std::int64_t l = 0; l < config.layers; ++l) {
      const parallel::LayerBuilder layer = builder.in(fmt::format("{}", l));
      mixers.emplace_back(config, init::Depth{l, config.layers}, layer);
      feed_forwards.emplace_back(config, init::Depth{l, config.layers}, layer.in("ffn"));
    }
    shake_in_float64(parameters);
    run(config);
    sum_partial_gradients(parameters, group);
  }

  void run(const ModelConfig& config) {
    input = noise({2, 14, config.width}, 100).requires_grad_();
    const Documents documents(2, 14, at::tensor({std::int64_t{5}}), 0, {});
    at::Tensor h = input, first_values;
    for (std::size_t l = 0; l < mixers.size(); ++l) {
      h = h.add(mixers[l](h, stream, documents, nullptr, first_values));
      h = h.add(feed_forwards[l](h, stream, documents, nullptr));
    }
    out = h.detach();
    h.mul(noise(h.sizes(), 101)).sum().backward();
  }
};

class Shards : public testing::TestWithParam<Named> {};
INSTANTIATE_TEST_SUITE_P(Configurations, Shards, testing::ValuesIn(every_model),
                         [](const auto& info) { return info.param.name; });

TEST_P(Shards, TogetherAreTheWhole) {
  const ModelConfig config = divisible(GetParam().config);
  const auto alone = parallel::make_single();
  const Layers whole(config, *alone), mine(config, tests::world().communicator());
  const auto expect_same = [](const at::Tensor& a, const at::Tensor& b, const std::string& what) {
    EXPECT_LT(a.sub(b).norm().item<double>(), bar * (1.0 + b.norm().item<double>())) << what;
  };
  expect_same(mine.out, whole.out, "output");
  expect_same(mine.input.grad(), whole.input.grad(), "gradient of the input");
  for (std::size_t i = 0; i < whole.parameters.size(); ++i) {
    const parallel::Parameter &part = mine.parameters[i], &all = whole.parameters[i];
    expect_same(part.value, part_of(all.value, part), part.name);
    expect_same(part.value.grad(), part_of(all.value.grad(), part), "gradient of " + part.name);
  }
}

// A whole model and what it makes of one batch.
struct Model {
  LanguageModel model;
  at::Tensor losses, logits;

  Model(const ModelConfig& config, parallel::Communicator& group, parallel::Building options = {})
      : model(config, group, 1, options) {
    const at::Tensor starts = at::tensor({std::int64_t{6}});
    shake_in_float64(model.parameters());
    const at::Tensor ids = tokens(2, 16), targets = tokens(2, 16, 5);
    const kernels::LinearCrossEntropy loss = model.loss(ids, targets, starts);
    losses = loss.losses;
    loss.objective.backward();
    sum_partial_gradients(model.parameters(), group);
    const at::NoGradGuard no_grad;
    logits = model.logits(model.hidden(ids, starts));
  }
};

void expect_same_model(const Model& mine, const Model& whole) {
  const auto expect_same = [](const at::Tensor& a, const at::Tensor& b, const std::string& what) {
    EXPECT_LT(a.sub(b).norm().item<double>(), bar * (1.0 + b.norm().item<double>())) << what;
  };
  expect_same(mine.losses, whole.losses, "losses");
  expect_same(mine.logits, whole.logits, "logits");
  for (std::size_t i = 0; i < whole.model.parameters().size(); ++i) {
    const parallel::Parameter &part = mine.model.parameters()[i], &all = whole.model.parameters()[i];
    const at::Tensor gradient = part.value.grad();
    const std::int64_t real = gradient.size(0) - part.padding;
    expect_same(gradient.narrow(0, 0, real), part_of(all.value.grad(), part), "gradient of " + part.name);
    EXPECT_EQ(gradient.narrow(0, real, part.padding).abs().sum().item<double>(), 0.0) << part.name;
  }
}

// 50 ids are no multiple of four ranks. Their logits are those of a stream that is whole in any case.
TEST_P(Shards, OfAModelAreTheWholeModel) {
  ModelConfig config = divisible(GetParam().config);
  config.penalties = {.z_loss = 1e-3, .pull = 1e-2};
  const auto alone = parallel::make_single();
  const Model whole(config, *alone);
  expect_same_model(Model(config, tests::world().communicator()), whole);
  expect_same_model(Model(config, tests::world().communicator(), {.sequence = true}), whole);
}

}  // namespace
}  // namespace wuneng::model
