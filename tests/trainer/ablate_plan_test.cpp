// The file of an ablation: what runs it makes, and what it refuses.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <set>

#include "data/sampler.h"
#include "model/cost.h"
#include "tests/trainer/config_support.h"
#include "trainer/ablate/plan.h"
#include "trainer/feed_forward_match.h"

namespace wuneng::trainer::ablate {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

std::filesystem::path source() { return std::getenv("WUNENG_SOURCE"); }

const std::string good =
    "question: Which?\n"                                      // 1
    "base: base.yaml\n"                                       // 2
    "variants:\n"                                             // 3
    "  plain: {}\n"                                           // 4
    "  gated: {model.fusion.mode: gated}\n"                   // 5
    "  wide: {model.state.heads: 2, optimizer.lr: 1.0e-3}\n"  // 6
    "seeds: [7, 8]\n"                                         // 7
    "budget: {steps: 40}\n";                                  // 8

Choices of_size(const std::string& size) {
  Choices choices;
  choices.size = size;
  return choices;
}
Choices with_budget(const std::string& budget) {
  Choices choices;
  choices.budget = budget;
  return choices;
}
Choices all_of(const std::vector<std::string>& overrides, const std::string& seeds = "") {
  Choices choices;
  choices.overrides = overrides;
  choices.seeds = seeds;
  return choices;
}

class AblatePlan : public testing::Test {
 protected:
  AblatePlan() {
    folder.write("base.yaml",
                 "extends: " + (source() / "configs/tiny.yaml").string() + "\nmodel: {ffn: {hidden: 512}}\n");
  }

  Plan plan(const std::string& text, const Choices& choices = {}) const {
    return make_plan(folder.write("a.yaml", text), choices);
  }
  // `good` with one line changed to this one; the message of its refusal.
  std::string problem(const std::string& line, const std::string& other, const Choices& choices = {}) const {
    std::string text = good;
    const std::size_t at = text.find(line);
    EXPECT_NE(at, std::string::npos) << line;
    text.replace(at, line.size(), other);
    return problem_of([&] { plan(text, choices); });
  }

  ConfigFolder folder;
};

TEST_F(AblatePlan, EverySeedMeetsEveryVariant) {
  const Plan made = plan(good);
  std::vector<std::string> names;
  for (const PlannedRun& run : made.runs) names.push_back(run.name);
  EXPECT_THAT(names, ElementsAre("plain-seed7", "gated-seed7", "wide-seed7", "plain-seed8", "gated-seed8",
                                 "wide-seed8"));
  EXPECT_EQ(made.file.reference, "plain");
  EXPECT_EQ(made.runs[4].config.seed, 8);
  EXPECT_EQ(made.runs[4].config.model.fusion.mode, model::FusionMode::gated);
  EXPECT_EQ(made.runs[4].config.trainer.steps, 40);
  EXPECT_EQ(made.runs[5].config.optimizer.lr, 1e-3);
  EXPECT_EQ(made.runs[3].config.model.fusion.mode, model::FusionMode::concat);
}

TEST_F(AblatePlan, GridsAreProducts) {
  const Plan made = plan(
      "question: Which?\nbase: base.yaml\ngrids:\n  - model.fusion.mode: [concat, additive, gated]\n    "
      "model.state.heads: [1, 2]\n"
      "reference: gated-heads_1\nseeds: [1]\nbudget: {steps: 4}\n");
  std::set<std::pair<int, std::int64_t>> pairs;
  for (const Variant& variant : made.variants)
    pairs.emplace(static_cast<int>(variant.config.model.fusion.mode), variant.config.model.state.heads);
  EXPECT_EQ(pairs.size(), 6u);
  EXPECT_EQ(made.variants[1].name, "concat-heads_2");
  EXPECT_EQ(made.variants[made.reference].name, "gated-heads_1");
}

// Parameters and operations are counted by the functions that `inspect` prints, whose own tests count by
// hand.
TEST_F(AblatePlan, TheFeedForwardMakesVariantsEqual) {
  for (const bool by_flops : {false, true}) {
    const Plan made = plan(good + (by_flops ? "match: flops\n" : "match: parameters\n"));
    const auto cost = [&](const Config& config) {
      return by_flops ? model::forward_flops(config.model, config.data.sequence_length).total()
                      : static_cast<double>(count_parameters(config.model));
    };
    for (const Variant& variant : made.variants) {
      const double off = cost(variant.config) / cost(made.variants[0].config) - 1.0;
      EXPECT_LE(std::abs(off), 0.005) << variant.name;
      EXPECT_DOUBLE_EQ(variant.match_error, off);
      EXPECT_EQ(variant.parameters, count_parameters(variant.config.model));
    }
    EXPECT_EQ(made.variants[0].config.model.feed_forward.hidden, 512);  // the reference's stays as it is
    EXPECT_LT(made.variants[2].config.model.feed_forward.hidden, 512);
  }
  const Plan unmatched = plan(good + "match: none\n");
  EXPECT_GT(unmatched.variants[2].match_error, 0.05);
  EXPECT_EQ(unmatched.variants[2].config.model.feed_forward.hidden, 512);
}

TEST_F(AblatePlan, BudgetsBecomeSteps) {
  const auto steps = [&](const std::string& budget, std::size_t variant) {
    return plan(good + "match: none\n", with_budget(budget)).variants[variant].config.trainer.steps;
  };
  EXPECT_EQ(steps("steps=7", 0), 7);
  EXPECT_EQ(steps("tokens=51200", 0), 100);  // 8 sequences of 64 tokens a step
  EXPECT_EQ(steps("tokens=51200", 2), 100);
  const Plan by_flops = plan(good + "match: none\n", with_budget("flops=3e11"));
  for (const Variant& variant : by_flops.variants)
    EXPECT_NEAR(variant.flops() / 3e11, 1.0, 0.5 / static_cast<double>(variant.config.trainer.steps));
  EXPECT_GT(by_flops.variants[0].config.trainer.steps, by_flops.variants[2].config.trainer.steps);
}

TEST_F(AblatePlan, TheCommandLineChangesAllVariants) {
  const Plan made = plan(good, all_of({"model.width=128", "data.train=corpus"}, "3,1,2"));
  EXPECT_THAT(made.file.seeds, ElementsAre(3, 1, 2));
  for (const PlannedRun& run : made.runs) {
    EXPECT_EQ(run.config.model.width, 128);
    EXPECT_EQ(run.config.data.train, "corpus");
  }
}

TEST_F(AblatePlan, ASizeChangesBaseBudgetAndVariants) {
  folder.write("large.yaml", "extends: base.yaml\nmodel: {width: 128}\n");
  const std::string text = good +
                           "sizes:\n  large:\n    base: large.yaml\n    budget: {steps: 99}\n"
                           "    variants: {wide: {model.state.heads: 4}}\n";
  const Plan small = plan(text), large = plan(text, of_size("large"));
  EXPECT_EQ(small.variants[2].config.model.width, 64);
  EXPECT_EQ(small.variants[2].config.model.state.heads, 2);
  EXPECT_EQ(large.variants[2].config.model.width, 128);
  EXPECT_EQ(large.variants[2].config.model.state.heads, 4);
  EXPECT_EQ(large.variants[1].config.trainer.steps, 99);
  EXPECT_THAT(problem_of([&] { plan(text, of_size("huge")); }),
              AllOf(HasSubstr("--size huge"), HasSubstr("large")));
}

// All variants of a seed: the order of the samples is a function of the seed and of what variants share.
TEST_F(AblatePlan, VariantsOfASeedReadTheSameSamples) {
  const std::string prefix = (folder.path() / "corpus").string();
  data::TokenFileWriter writer(prefix, 257);
  std::vector<std::int32_t> tokens;
  for (std::int32_t i = 0; i < 5000; ++i) tokens.push_back(i * i % 251);
  writer.add_document(tokens);
  writer.finish();
  const data::TokenFile corpus(prefix, 257);
  const Plan made = plan(good);
  const auto samples = [&](const Config& config) {
    const data::TrainingSampler sampler(corpus, config.data.sequence_length,
                                        static_cast<std::uint64_t>(config.seed),
                                        config.data.separate_documents);
    const at::Tensor batch = sampler.batch(0, config.trainer.global_batch * config.trainer.steps).tokens;
    return std::vector<std::int64_t>(batch.const_data_ptr<std::int64_t>(),
                                     batch.const_data_ptr<std::int64_t>() + batch.numel());
  };
  for (std::size_t v = 1; v < 3; ++v) {
    EXPECT_EQ(samples(made.runs[v].config), samples(made.runs[0].config));
    EXPECT_EQ(samples(made.runs[3 + v].config), samples(made.runs[3].config));
  }
  EXPECT_NE(samples(made.runs[3].config), samples(made.runs[0].config));
}

// ---- what is refused ----

TEST_F(AblatePlan, UnknownNamesAreRefusedWithTheNearest) {
  EXPECT_THAT(problem("model.fusion.mode: gated", "model.fusion.mod: gated"),
              AllOf(HasSubstr("a.yaml:5"), HasSubstr("gated"), HasSubstr("model.fusion.mod"),
                    HasSubstr("did you mean model.fusion.mode?")));
  EXPECT_THAT(problem("model.fusion.mode: gated", "model.fusion.mode: gatd"),
              AllOf(HasSubstr("a.yaml:5"), HasSubstr("gatd"), HasSubstr("concat, additive, gated")));
  EXPECT_THAT(problem("question:", "qestion:"),
              AllOf(HasSubstr("a.yaml:1"), HasSubstr("did you mean question?")));
  EXPECT_THAT(problem("steps: 40", "stepps: 40"),
              AllOf(HasSubstr("a.yaml:8"), HasSubstr("did you mean steps?")));
  EXPECT_THAT(problem("{model.fusion.mode: gated}", "{model: {fusion: {mode: gated}}}"),
              AllOf(HasSubstr("a.yaml:5"), HasSubstr("dots")));
  EXPECT_THAT(problem("seeds:", "reference: gatde\nseeds:"),
              AllOf(HasSubstr("a.yaml:7"), HasSubstr("did you mean gated?")));
  EXPECT_THAT(problem("seeds:", "metrics: [accurcy]\nseeds:"),
              AllOf(HasSubstr("accurcy"), HasSubstr("validation_loss")));
  EXPECT_THAT(problem("seeds:", "match: params\nseeds:"),
              AllOf(HasSubstr("params"), HasSubstr("parameters, flops, none")));
  EXPECT_THAT(problem("base: base.yaml", "base: bas.yaml"),
              AllOf(HasSubstr("a.yaml:2"), HasSubstr("bas.yaml")));
  EXPECT_THAT(problem("", "", all_of({"model.widht=3"})), HasSubstr("did you mean model.width?"));
}

TEST_F(AblatePlan, WhatIsMissingOrThereTwiceIsRefused) {
  EXPECT_THAT(problem("question: Which?", ""), HasSubstr("question: is missing"));
  EXPECT_THAT(problem("base: base.yaml", ""), HasSubstr("base: is missing"));
  EXPECT_THAT(problem("seeds: [7, 8]", ""), HasSubstr("seeds: is missing"));
  EXPECT_THAT(problem("budget: {steps: 40}", ""), HasSubstr("budget: is missing"));
  EXPECT_THAT(problem("steps: 40", "steps: 40, tokens: 3"), HasSubstr("exactly one"));
  EXPECT_THAT(problem("[7, 8]", "[7, 8, 7]"),
              AllOf(HasSubstr("a.yaml:7"), HasSubstr("7"), HasSubstr("twice")));
  EXPECT_THAT(problem("", "", all_of({}, "1,2,1")), AllOf(HasSubstr("--seeds 1,2,1"), HasSubstr("twice")));
  EXPECT_THAT(problem("[7, 8]", "[7, x]"), AllOf(HasSubstr("a.yaml:7"), HasSubstr("integer")));
  EXPECT_THAT(problem("  gated:", "  plain:"),
              AllOf(HasSubstr("a.yaml:5"), HasSubstr("given twice, first in line 4")));
  EXPECT_THAT(problem("  gated:", "  a/b:"), HasSubstr("letters"));
  EXPECT_THAT(problem_of([&] { plan("- a\n"); }), HasSubstr("must hold an ablation"));
}

TEST_F(AblatePlan, WhatTheAblationDecidesIsRefused) {
  EXPECT_THAT(problem("model.fusion.mode: gated", "seed: 3"),
              AllOf(HasSubstr("a.yaml:5"), HasSubstr("use seeds")));
  EXPECT_THAT(problem("model.fusion.mode: gated", "trainer.steps: 3"), HasSubstr("use budget"));
  EXPECT_THAT(problem("", "", all_of({"trainer.steps=3"})), HasSubstr("use budget"));
  EXPECT_THAT(problem("model.fusion.mode: gated", "model.ffn.hidden: 64"), HasSubstr("match: none"));
  EXPECT_THAT(problem("", "", all_of({"model.fusion.mode=additive"})),
              AllOf(HasSubstr("--set model.fusion.mode=additive"), HasSubstr("gated")));
}

TEST_F(AblatePlan, EqualVariantsAreRefused) {
  EXPECT_THAT(problem("model.fusion.mode: gated", "model.fusion.mode: concat"),
              AllOf(HasSubstr("plain"), HasSubstr("gated"), HasSubstr("same configuration")));
}

TEST_F(AblatePlan, VariantsThatCannotBeMatchedAreRefusedWithTheNearest) {
  const std::string message = problem("model.state.heads: 2", "model.state.heads: 30");
  EXPECT_THAT(message,
              AllOf(HasSubstr("a.yaml:6"), HasSubstr("wide"), HasSubstr("cannot be matched to plain"),
                    HasSubstr("model.ffn.hidden = 1 "), HasSubstr("lower")));
  Config config = plan(good + "match: none\n").variants[2].config;
  config.model.state.heads = 30;
  config.model.feed_forward.hidden = 1;
  EXPECT_THAT(message, HasSubstr(std::to_string(count_parameters(config.model))));
}

TEST_F(AblatePlan, VariantsThatAreNoConfigurationAreRefused) {
  EXPECT_THAT(problem("model.state.heads: 2", "model.attention.heads: 0, model.state.heads: 0"),
              AllOf(HasSubstr("a.yaml:6"), HasSubstr("wide")));
}

void expect_plan(const std::filesystem::path& file, const std::string& size, double least_millions) {
  SCOPED_TRACE(file.string() + " " + size);
  const Plan made = make_plan(file, of_size(size));
  EXPECT_GE(made.file.seeds.size(), 3u);
  for (const Variant& variant : made.variants)
    EXPECT_LE(std::abs(variant.match_error), 0.005) << variant.name;
  const double millions = static_cast<double>(made.variants[made.reference].parameters) / 1e6;
  EXPECT_GE(millions, least_millions);
  EXPECT_LE(millions, 1.7 * least_millions);
}

// Each file that comes with the program, in each of its sizes; millions with the embedding.
TEST(AblateConfigs, AllArePlans) {
  std::size_t count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(source() / "configs/ablations")) {
    if (entry.is_directory() || entry.path().stem() == "tasks") continue;
    expect_plan(entry.path(), "", 0.9);
    expect_plan(entry.path(), "125m", 125.0);
    expect_plan(entry.path(), "350m", 330.0);
    ++count;
  }
  EXPECT_GE(count, 6u);
  for (const auto& [size, millions] : {std::pair{"", 0.15},
                                       {"swaps", 0.15},
                                       {"a5", 0.2},
                                       {"state_recall", 0.2},
                                       {"125m", 100.0},
                                       {"350m", 330.0}})
    expect_plan(source() / "configs/ablations/tasks.yaml", size, millions);
}

}  // namespace
}  // namespace wuneng::trainer::ablate
