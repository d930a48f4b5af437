#include "model/language_model.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "model/generation.h"
#include "tests/model/every_model.h"

namespace wuneng::model {
namespace {

class EveryModel : public testing::TestWithParam<Named> {
 protected:
  std::unique_ptr<parallel::Communicator> group = parallel::make_single();
  LanguageModel model = shaken(GetParam().config, *group);
};
INSTANTIATE_TEST_SUITE_P(Configurations, EveryModel, testing::ValuesIn(every_model),
                         [](const auto& info) { return info.param.name; });

TEST_P(EveryModel, AnySplitOfTheTokensGivesTheSameOutput) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = tokens(2, 75), whole = model.hidden(ids);
  for (const std::vector<std::int64_t>& pieces :
       {std::vector<std::int64_t>{1, 74}, {64, 11}, {20, 1, 1, 33, 20}}) {
    ModelState state;
    std::vector<at::Tensor> parts;
    std::int64_t begin = 0;
    for (const std::int64_t length : pieces) {
      parts.push_back(model.hidden(ids.narrow(1, begin, length), {}, &state));
      begin += length;
    }
    EXPECT_LT(largest_difference(at::cat(parts, 1), whole), 2e-5);
    EXPECT_EQ(state.position, 75);
  }
}

// A stream far smaller than that is drowned by the first block.
TEST_P(EveryModel, TheStreamStartsAsLargeAsWhatABlockAdds) {
  const ModelConfig& config = GetParam().config;
  if (config.init == InitKind::rwkv) GTEST_SKIP() << "its embedding norm scales the stream";
  const LanguageModel fresh(config, *group, 1);
  const auto row_length = [&](std::string_view name) {  // of a matrix, the root of the mean square
    const auto found = std::ranges::find(fresh.parameters(), name, &parallel::Parameter::name);
    const at::Tensor& value = found->value;
    return std::sqrt(value.square().sum().item<double>() / static_cast<double>(value.size(0)));
  };
  const double added = row_length("layers.0.ffn.down.weight");  // per channel, of inputs of size one
  const double channels = std::sqrt(static_cast<double>(config.width));
  for (const char* name : {"embedding.weight", "positions"}) {
    if (name == std::string_view("positions") && config.learned_positions == 0) continue;
    const double expected = config.tied_head ? 1.0 : added * channels;
    EXPECT_NEAR(row_length(name) / expected, 1.0, 0.2) << name;
  }
}

TEST_P(EveryModel, DocumentsInOneRowAreSequencesOfTheirOwn) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = tokens(2, 40);
  // Row 0: documents of 17 and 23 tokens; row 1: goes on, then documents of 1 and 30.
  const at::Tensor starts =
      at::tensor({std::int64_t{0}, std::int64_t{17}, std::int64_t{49}, std::int64_t{50}});
  const at::Tensor together = model.hidden(ids, starts);
  const auto alone = [&](std::int64_t row, std::int64_t begin, std::int64_t length) {
    return model.hidden(ids.narrow(0, row, 1).narrow(1, begin, length));
  };
  const at::Tensor apart = at::cat({at::cat({alone(0, 0, 17), alone(0, 17, 23)}, 1),
                                    at::cat({alone(1, 0, 9), alone(1, 9, 1), alone(1, 10, 30)}, 1)},
                                   0);
  EXPECT_LT(largest_difference(together, apart), 2e-5);
  EXPECT_GT(largest_difference(together, model.hidden(ids)), 1e-3) << "documents made no difference";
}

TEST_P(EveryModel, DocumentsAndStatesMeet) {  // a split in the middle of a row with documents
  const at::NoGradGuard no_grad;
  const at::Tensor ids = tokens(2, 40), starts = at::tensor({std::int64_t{12}, std::int64_t{40 + 25}});
  const at::Tensor whole = model.hidden(ids, starts);
  ModelState state;
  const at::Tensor first = model.hidden(ids.narrow(1, 0, 20), at::tensor({std::int64_t{12}}), &state);
  const at::Tensor second = model.hidden(ids.narrow(1, 20, 10), at::tensor({std::int64_t{10 + 5}}), &state);
  const at::Tensor third = model.hidden(ids.narrow(1, 30, 10), {}, &state);
  EXPECT_LT(largest_difference(at::cat({first, second, third}, 1), whole), 2e-5);
}

TEST_P(EveryModel, RowsDoNotMeet) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = tokens(3, 20), all = model.hidden(ids);
  for (std::int64_t row = 0; row < 3; ++row)
    EXPECT_LT(largest_difference(model.hidden(ids.narrow(0, row, 1)), all.narrow(0, row, 1)), 1e-5);
}

TEST_P(EveryModel, TheFutureDoesNotReachThePast) {
  const at::NoGradGuard no_grad;
  const at::Tensor ids = tokens(1, 30), changed = ids.clone();
  changed[0][20] = (changed[0][20].item<std::int64_t>() + 1) % vocab;
  const at::Tensor a = model.hidden(ids), b = model.hidden(changed);
  EXPECT_EQ(largest_difference(a.narrow(1, 0, 20), b.narrow(1, 0, 20)), 0.0);
  EXPECT_GT(largest_difference(a.narrow(1, 20, 10), b.narrow(1, 20, 10)), 0.0);
}

TEST_P(EveryModel, GenerationEqualsReadingEverythingAgain) {
  const at::NoGradGuard no_grad;
  Generator generator(model, {.temperature = 0.0}, {{3, 1, 4, 1, 5}});
  for (int i = 0; i < 20; ++i) {
    const std::vector<std::int64_t> ids(generator.texts()[0].begin(), generator.texts()[0].end());
    const at::Tensor hidden = model.hidden(at::tensor(ids).unsqueeze(0));
    const at::Tensor logits = model.logits(hidden.select(1, hidden.size(1) - 1)).flatten();
    EXPECT_EQ(generator.next()[0], logits.argmax().item<std::int64_t>()) << "token " << i;
  }
}

TEST_P(EveryModel, TextsGeneratedTogetherAreThoseGeneratedAlone) {
  const std::vector<std::vector<std::int32_t>> prompts{{3, 1, 4, 1, 5}, {2}, {7, 1, 8}, {1, 6, 1, 8, 0}};
  const auto continued = [&](const std::vector<std::vector<std::int32_t>>& some) {
    Generator generator(model, {.temperature = 0.0, .repetition_penalty = 1.1}, some);
    for (int i = 0; i < 15; ++i) generator.next();
    return generator.texts();
  };
  const auto together = continued(prompts);
  for (std::size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(together[i], continued({prompts[i]})[0]) << i;
}

TEST_P(EveryModel, EveryParameterHasAGradientWithinThreeSteps) {  // zero outputs hide their inputs, then zero
                                                                  // low-rank factors their other factor
  LanguageModel fresh(GetParam().config, *group, 7);
  const at::Tensor ids = tokens(2, 30), targets = tokens(2, 30, 9);
  for (int step = 0; step < 3; ++step) {
    const at::Tensor objective = fresh.loss(ids, targets).objective;
    for (const parallel::Parameter& p : fresh.parameters()) p.value.mutable_grad().reset();
    objective.backward();
    const at::NoGradGuard no_grad;
    for (const parallel::Parameter& p : fresh.parameters())
      if (p.value.grad().defined()) p.value.detach().sub_(p.value.grad(), 1e-3);
  }
  for (const parallel::Parameter& p : fresh.parameters()) {
    ASSERT_TRUE(p.value.grad().defined()) << p.name;
    EXPECT_GT(p.value.grad().abs().max().item<double>(), 0.0) << p.name;
  }
}

TEST(LanguageModel, ANewHybridComputesWhatItsAttentionHeadsAloneWould) {
  const auto group = parallel::make_single();
  ModelConfig without = tiny();
  without.fusion.attention_norm = false;
  const LanguageModel hybrid(without, *group, 1);
  without.state.heads = 0;
  const LanguageModel alone(without, *group, 1);  // parameters depend on seed and name alone
  EXPECT_TRUE(hybrid.hidden(tokens(2, 20)).equal(alone.hidden(tokens(2, 20))));
}

TEST(LanguageModel, ANewAdditiveFusionComputesWhatItsAttentionHeadsAloneWould) {  // beta starts at 0
  const auto group = parallel::make_single();
  ModelConfig config = fused(FusionMode::additive);
  config.middle.mode = MiddleMode::mixed;
  config.fusion.attention_norm = false;
  const LanguageModel hybrid(config, *group, 1);
  const at::Tensor out = hybrid.hidden(tokens(2, 20));
  config = transformer();
  EXPECT_TRUE(out.equal(LanguageModel(config, *group, 1).hidden(tokens(2, 20))));
}

TEST(LanguageModel, AWindowThatHoldsEverythingChangesNothing) {
  const auto group = parallel::make_single();
  ModelConfig config = tiny();
  const LanguageModel open = shaken(config, *group);
  config.attention.window = 40;
  const LanguageModel windowed = shaken(config, *group);
  EXPECT_TRUE(open.hidden(tokens(2, 40)).equal(windowed.hidden(tokens(2, 40))));
  EXPECT_GT(largest_difference(open.hidden(tokens(2, 60)), windowed.hidden(tokens(2, 60))), 1e-3);
}

TEST(LanguageModel, AWindowedCacheDoesNotGrow) {
  const auto group = parallel::make_single();
  ModelConfig config = tiny();
  config.attention.window = 9;
  config.middle = {.mode = MiddleMode::key, .heads = 2};
  const LanguageModel model(config, *group, 1);
  ModelState state;
  for (int i = 0; i < 5; ++i) {
    model.hidden(tokens(1, 7), {}, &state);
    for (const LayerState& layer : state.layers)
      for (const KeyValueCache* cache : {&layer.attention, &layer.middle}) {
        EXPECT_EQ(cache->keys.size(1), std::min<std::int64_t>(7 * (i + 1), 8));
        EXPECT_EQ(cache->keys.storage().nbytes(), cache->keys.numel() * sizeof(float));
      }
  }
}

TEST(LanguageModel, StretchedPositionsOfFactorOneAreThePlainOnes) {
  const auto group = parallel::make_single();
  const at::Tensor ids = tokens(1, 20), plain = shaken(transformer(), *group).hidden(ids);
  for (const RopeScaling scaling : {RopeScaling::linear, RopeScaling::ntk}) {
    ModelConfig config = transformer();
    config.attention.rope_scaling = scaling;
    EXPECT_TRUE(shaken(config, *group).hidden(ids).equal(plain));
    config.attention.rope_factor = 2.0;
    EXPECT_GT(largest_difference(shaken(config, *group).hidden(ids), plain), 1e-3);
  }
}

TEST(LanguageModel, ParameterCountIsTheFormulaOfRwkv7) {
  const auto group = parallel::make_single();
  const ModelConfig config = rwkv7();
  const std::int64_t D = 64, L = 3, V = vocab, w = 32, a = 32, v = 32,
                     g = 32;  // every rank is the smallest at this width
  const std::int64_t expected =
      2 * V * D + 4 * D + L * D * (12 * D + 2 * (w + a + v + g) + 19) - (2 * D * v + D);
  EXPECT_EQ(LanguageModel(config, *group, 0).parameter_count(), expected);
}

TEST(LanguageModel, ImpossibleShapesAreRefused) {
  const auto group = parallel::make_single();
  ModelConfig config = tiny();
  config.attention.kv_heads = 3;
  EXPECT_THROW(LanguageModel(config, *group, 0), UsageError);
  config = tiny();
  config.attention.heads = config.state.heads = 0;
  EXPECT_THROW(LanguageModel(config, *group, 0), UsageError);
}

TEST(LanguageModel, CombinationsWithoutMeaningAreRefusedWithTheirNumbers) {
  using testing::AllOf;
  using testing::HasSubstr;
  const auto message = [](auto change) -> std::string {
    try {
      check(with(change));
    } catch (const UsageError& error) {
      return error.what();
    }
    return "nothing";
  };
  EXPECT_THAT(message([](ModelConfig& c) { c.fusion.mode = FusionMode::gated, c.state.heads = 3; }),
              AllOf(HasSubstr("model.state.heads = 3"), HasSubstr("2 and 4")));
  EXPECT_THAT(message([](ModelConfig& c) { c.fusion.mode = FusionMode::additive, c.state.heads = 0; }),
              HasSubstr("model.state.heads = 0"));
  EXPECT_THAT(message([](ModelConfig& c) { c.middle.mode = MiddleMode::key, c.pattern = "as"; }),
              HasSubstr("\"as\""));
  EXPECT_THAT(message([](ModelConfig& c) { c.middle.heads = 2; }), HasSubstr("model.middle.heads = 2"));
  EXPECT_THAT(message([](ModelConfig& c) { c.middle = {.mode = MiddleMode::mixed, .heads = 2}; }),
              HasSubstr("at least 3"));
  EXPECT_THAT(message([](ModelConfig& c) { c.pattern = "hx"; }), HasSubstr("\"hx\""));
  EXPECT_THAT(message([](ModelConfig& c) { c.pattern = ""; }), HasSubstr("\"\""));
  EXPECT_THAT(message([](ModelConfig& c) { c.pattern = "hs", c.state.heads = 0; }), HasSubstr("layer 1"));
  EXPECT_THAT(message([](ModelConfig& c) { c.state.kv = StateKv::shared; }), HasSubstr("32 key channels"));
  EXPECT_THAT(message([](ModelConfig& c) { c.state.value = StateValue::attention, c.state.heads = 3; }),
              HasSubstr("model.state.heads = 3"));
  EXPECT_THAT(message([](ModelConfig& c) { c.state.value = StateValue::attention, c.pattern = "hs"; }),
              HasSubstr("layer 1"));
  EXPECT_THAT(message([](ModelConfig& c) { c.attention.global_every = 4; }), HasSubstr("window"));
  EXPECT_THAT(message([](ModelConfig& c) { c.attention.rope_factor = 2; }), HasSubstr("rope_scaling"));
}

TEST(Sample, CutsAndTemperature) {
  const at::Tensor logits = at::tensor({0.0f, 3.0f, 2.0f, 1.0f});
  EXPECT_EQ(sample(logits, {.temperature = 0.0}, 0.99), 1);
  EXPECT_EQ(sample(logits, {.top_k = 1}, 0.99), 1);
  EXPECT_EQ(sample(logits, {.top_k = 2}, 0.999), 2);
  EXPECT_EQ(sample(logits, {.top_p = 0.5}, 0.999), 1);
  EXPECT_EQ(sample(logits, {}, 0.9999), 0);
  const std::vector<std::int32_t> seen{1, 1};
  EXPECT_EQ(sample(logits, {.temperature = 0.0, .repetition_penalty = 1.4}, 0.5, seen), 1);  // 3 / 1.4 > 2
  EXPECT_EQ(sample(logits, {.temperature = 0.0, .repetition_penalty = 1.6}, 0.5, seen),
            2);  // once, however often
  const at::Tensor negative = at::tensor({-1.0f, -1.5f});
  const std::vector<std::int32_t> first{0};
  EXPECT_EQ(sample(negative, {.temperature = 0.0, .repetition_penalty = 2.0}, 0.5, first), 1);
  // Probabilities by decreasing logit: 0.6439, 0.2369, 0.0871, 0.0321.
  EXPECT_EQ(sample(logits, {}, 0.6438), 1);
  EXPECT_EQ(sample(logits, {}, 0.6440), 2);
  EXPECT_EQ(sample(logits, {}, 0.8810), 3);
}

}  // namespace
}  // namespace wuneng::model
