#include "trainer/config.h"

#include <gmock/gmock.h>

#include "tests/trainer/config_support.h"

namespace wuneng::trainer {
namespace {

using testing::HasSubstr;

std::filesystem::path repository() { return std::getenv("WUNENG_SOURCE"); }

std::string load_problem(const std::filesystem::path& file, const std::vector<std::string>& overrides = {}) {
  return problem_of([&] { load_config(file, overrides); });
}

std::string check_problem(const Config& config) {
  return problem_of([&] { check(config); });
}

TEST(LoadConfig, GivesDefaultsForAnEmptyFile) {
  const ConfigFolder folder;
  for (const std::string text : {"", "# nothing\n", "model:\n  attention:\n", "---\n"}) {
    EXPECT_EQ(to_yaml(load_config(folder.write("x.yaml", text))), to_yaml(Config{})) << text;
  }
}

TEST(LoadConfig, OverridesWinAndTheLastOneMost) {
  const ConfigFolder folder;
  const auto file = folder.write("x.yaml", "trainer:\n  steps: 5\n  log_every: 7\ndata: {train: a}\n");
  const Config config =
      load_config(file, {"trainer.steps=6", "trainer.steps=8", "data.train=b=c d", "data.validation="});
  EXPECT_EQ(config.trainer.steps, 8);
  EXPECT_EQ(config.trainer.log_every, 7);
  EXPECT_EQ(config.data.train, "b=c d");
  EXPECT_EQ(config.data.validation, "");
}

TEST(LoadConfig, NearerFilesWinOverThoseTheyExtend) {
  const ConfigFolder folder;
  folder.write("bases/far.yaml", "seed: 1\nmodel: {width: 1, layers: 1, vocab_size: 11}\n");
  folder.write("bases/base.yaml", "extends: far.yaml\nmodel: {width: 2, layers: 2}\n");
  const auto file = folder.write("x.yaml", "extends: bases/base.yaml\nmodel: {width: 3}\n");
  const Config config = load_config(file, {"seed=4"});
  EXPECT_EQ(config.seed, 4);
  EXPECT_EQ(config.model.width, 3);
  EXPECT_EQ(config.model.layers, 2);
  EXPECT_EQ(config.model.vocab_size, 11);
}

TEST(LoadConfig, ExtendsIsReadBeforeTheRestOfItsFileWhereverItStands) {
  const ConfigFolder folder;
  folder.write("base.yaml", "seed: 1\n");
  EXPECT_EQ(load_config(folder.write("x.yaml", "seed: 2\nextends: base.yaml\n")).seed, 2);
}

TEST(LoadConfig, LaterFilesOfAListWinAndASharedBaseComesFirst) {
  const ConfigFolder folder;
  folder.write("base.yaml", "seed: 1\nmodel: {width: 1, layers: 1}\n");
  folder.write("a.yaml", "extends: base.yaml\nmodel: {width: 2}\n");
  folder.write("b.yaml", "extends: ./base.yaml\nmodel: {layers: 2}\n");
  const Config both = load_config(folder.write("x.yaml", "extends: [a.yaml, b.yaml]\n"));
  EXPECT_EQ(both.model.width, 2) << "the base that b.yaml shares must not undo a.yaml";
  EXPECT_EQ(both.model.layers, 2);
  folder.write("c.yaml", "model: {width: 3}\n");
  EXPECT_EQ(load_config(folder.write("y.yaml", "extends: [a.yaml, c.yaml]\n")).model.width, 3);
  EXPECT_EQ(load_config(folder.write("z.yaml", "extends: [c.yaml, a.yaml]\n")).model.width, 2);
}

TEST(LoadConfig, ShowsACircleOfFiles) {
  const ConfigFolder folder;
  const auto a = folder.write("a.yaml", "seed: 1\nextends: b.yaml\n");
  const auto b = folder.write("b.yaml", "extends: c.yaml\n");
  const auto c = folder.write("c.yaml", "\n\nextends: ./a.yaml\n");
  EXPECT_EQ(
      load_problem(a),
      fmt::format("{2}:3: extends: ./a.yaml: files extend each other in a circle: {0} -> {1} -> {2} -> {0}",
                  a.string(), b.string(), c.string()));
  const auto self = folder.write("self.yaml", "extends: self.yaml\n");
  EXPECT_THAT(load_problem(self), HasSubstr(self.string() + " -> " + self.string()));
}

TEST(LoadConfig, NamesMissingFiles) {
  const ConfigFolder folder;
  EXPECT_THAT(load_problem(folder.path() / "none.yaml"),
              HasSubstr("none.yaml: cannot be opened: No such file"));
  EXPECT_THAT(load_problem(folder.path()), HasSubstr("is not a regular file"));
  const auto file = folder.write("x.yaml", "seed: 1\nextends: none.yaml\n");
  EXPECT_EQ(load_problem(file), fmt::format("{}:2: extends: none.yaml: there is no file {}", file.string(),
                                            (folder.path() / "none.yaml").string()));
}

TEST(LoadConfig, ErrorsOfABaseNameTheBase) {
  const ConfigFolder folder;
  const auto base = folder.write("base.yaml", "seed: 1\ntrainer:\n  steps: -5\n");
  const auto file = folder.write("x.yaml", "extends: base.yaml\ntrainer: {steps: 5}\n");
  EXPECT_EQ(load_problem(file), base.string() + ":3: trainer.steps = -5: must be at least 1");
}

TEST(LoadConfig, CombinationsNameTheFile) {
  const ConfigFolder folder;
  const auto file = folder.write("x.yaml", "trainer: {global_batch: 10, micro_batch: 4}\n");
  EXPECT_EQ(load_problem(file), file.string() +
                                    ": trainer.global_batch = 10: must be a multiple of "
                                    "trainer.micro_batch = 4; the nearest are 8 and 12");
  EXPECT_EQ(load_problem(file, {"trainer.global_batch=12"}), "");
}

TEST(LoadConfig, RunsTheConfigurationsOfTheRepository) {
  for (const auto& entry : std::filesystem::directory_iterator(repository() / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    EXPECT_EQ(load_problem(entry.path()), "");
  }
  const Config tiny = load_config(repository() / "configs/tiny.yaml");
  EXPECT_EQ(tiny.model.attention.heads, 2);
  EXPECT_EQ(tiny.model.state.heads, 1);
  EXPECT_EQ(tiny.trainer.global_batch / tiny.trainer.micro_batch, 4);
  EXPECT_EQ(tiny.data.train, "");
  EXPECT_EQ(load_problem(repository() / "configs/tiny.yaml", {"trainer.steps=1", "optimizer.lr=1e-6"}), "");
}

TEST(ParseConfig, RefusesToExtend) {
  EXPECT_EQ(problem_of([] { parse_config("extends: a.yaml\n", "run/config.yaml"); }),
            "run/config.yaml:1: extends: a.yaml: a resolved configuration extends nothing");
}

TEST(ParseConfig, ChecksCombinations) {
  EXPECT_EQ(problem_of([] { parse_config("optimizer: {warmup_steps: 2000}\n", "run/config.yaml"); }),
            "run/config.yaml: optimizer.warmup_steps = 2000: must be at most trainer.steps = 1000");
}

TEST(ParseConfig, ReadsWhatToYamlWrote) {
  const Config tiny = load_config(repository() / "configs/tiny.yaml");
  const std::string yaml = to_yaml(tiny);
  EXPECT_EQ(to_yaml(parse_config(yaml, "config.yaml")), yaml);
  EXPECT_EQ(identity_hash(parse_config(yaml, "config.yaml")), identity_hash(tiny));
  EXPECT_THAT(yaml, HasSubstr("model:\n  width: 64\n"));
  EXPECT_THAT(yaml, HasSubstr("    kv_heads: auto\n"));
  EXPECT_THAT(
      yaml,
      HasSubstr(
          "parallel:\n  data: auto\n  tensor: 1\n  device: auto\n  share_gpus: false\n  sequence: false\n  "
          "reduction: tree\n  check_calls: false\n  shard_optimizer: true\n"));
}

TEST(CheckConfig, WantsBatchesThatDivide) {
  Config config;
  config.trainer.global_batch = 16;
  config.trainer.micro_batch = 5;
  EXPECT_THAT(check_problem(config), HasSubstr("the nearest are 15 and 20"));
  config.trainer.micro_batch = 32;
  EXPECT_EQ(check_problem(config), "trainer.micro_batch = 32: must be at most trainer.global_batch = 16");
  config.trainer.micro_batch = 4;
  EXPECT_EQ(check_problem(config), "");
  for (const std::int64_t ranks : {0, 1, 2, 4}) {
    config.parallel.data = ranks;
    EXPECT_EQ(check_problem(config), "") << ranks;
  }
  for (const std::int64_t ranks : {3, 8}) {
    config.parallel.data = ranks;
    EXPECT_THAT(check_problem(config), HasSubstr("1, 2, 4")) << ranks;
  }
}

TEST(CheckConfig, WantsAScheduleThatDescendsInsideTheRun) {
  Config config;
  config.optimizer.lr = 1e-5;
  EXPECT_EQ(check_problem(config), "optimizer.min_lr = 0.0001: must be at most optimizer.lr = 1e-05");
  config.optimizer.schedule = OptimizerConfig::Schedule::constant;
  EXPECT_EQ(check_problem(config), "");
  config.optimizer.warmup_steps = config.trainer.steps;
  EXPECT_EQ(check_problem(config), "");
  config.optimizer.warmup_steps = config.trainer.steps + 1;
  EXPECT_EQ(check_problem(config), "optimizer.warmup_steps = 1001: must be at most trainer.steps = 1000");
}

TEST(CheckConfig, RefusesRunsThatOverflowCounters) {
  Config config;
  config.trainer.steps = 1'000'000'000;
  config.trainer.global_batch = 1'000'000;
  config.data.sequence_length = 10'000'000;
  EXPECT_THAT(check_problem(config), HasSubstr("lower trainer.steps"));
}

TEST(CheckConfig, ChecksTheModel) {
  Config config;
  config.model.attention.kv_heads = 3;
  EXPECT_THAT(check_problem(config), HasSubstr("model.attention.kv_heads = 3"));
}

}  // namespace
}  // namespace wuneng::trainer
