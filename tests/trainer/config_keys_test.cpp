#include "trainer/config_keys.h"

#include <gmock/gmock.h>

#include <bit>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "trainer/config.h"

namespace wuneng::trainer {
namespace {

using testing::HasSubstr;

// A valid value of each key, none of them the default.
const std::map<std::string, std::string>& other_values() {
  static const std::map<std::string, std::string> values = {
      {"seed", "9223372036854775807"},
      {"model.width", "192"},
      {"model.layers", "3"},
      {"model.vocab_size", "1000"},
      {"model.pattern", "\"ash\""},
      {"model.norm", "layer"},
      {"model.norm_eps", "1.0e-18"},
      {"model.embedding_norm", "true"},
      {"model.biases", "true"},
      {"model.learned_positions", "512"},
      {"model.z_loss", "0.0001"},
      {"model.logit_pull", "0.0002"},
      {"model.tied_head", "true"},
      {"model.init", "rwkv"},
      {"model.attention.heads", "8"},
      {"model.attention.kv_heads", "2"},
      {"model.attention.head_size", "32"},
      {"model.attention.positions", "none"},
      {"model.attention.rope_base", "500000.0"},
      {"model.attention.rope_scaling", "ntk"},
      {"model.attention.rope_factor", "2.0"},
      {"model.attention.qk_norm", "true"},
      {"model.attention.window", "100"},
      {"model.attention.global_every", "4"},
      {"model.attention.softcap", "30.0"},
      {"model.state.heads", "5"},
      {"model.state.head_size", "128"},
      {"model.state.kv", "shared"},
      {"model.state.value", "attention"},
      {"model.state.read", "double"},
      {"model.state.boundary_states", "2"},
      {"model.state.negative_eigenvalues", "true"},
      {"model.state.value_residual", "false"},
      {"model.state.decay_rank", "33"},
      {"model.state.rate_rank", "34"},
      {"model.state.value_rank", "35"},
      {"model.state.gate_rank", "36"},
      {"model.fusion.mode", "gated"},
      {"model.fusion.alpha", "fixed"},
      {"model.fusion.attention_norm", "false"},
      {"model.middle.mode", "mixed"},
      {"model.middle.heads", "6"},
      {"model.middle.norm", "false"},
      {"model.ffn.kind", "rwkv"},
      {"model.ffn.hidden", "777"},
      {"data.train", "\"corpora/a b\""},
      {"data.validation", "\"corpora/c\""},
      {"data.sequence_length", "1"},
      {"data.separate_documents", "false"},
      {"data.task.name", "parity"},
      {"data.task.vocabulary", "32"},
      {"data.task.count", "3"},
      {"data.task.shortest", "5"},
      {"data.task.pause_tokens", "2"},
      {"data.task.random_filler", "true"},
      {"data.task.train_samples", "9"},
      {"data.task.test_samples", "8"},
      {"data.task.test_lengths", "\"12, 13\""},
      {"parallel.data", "2"},
      {"parallel.tensor", "3"},
      {"parallel.device", "cpu"},
      {"parallel.share_gpus", "true"},
      {"parallel.sequence", "true"},
      {"parallel.reduction", "fast"},
      {"parallel.check_calls", "true"},
      {"parallel.shard_optimizer", "false"},
      {"optimizer.lr", "0.3"},
      {"optimizer.min_lr", "0.0"},
      {"optimizer.warmup_steps", "7"},
      {"optimizer.schedule", "constant"},
      {"optimizer.beta1", "0.0"},
      {"optimizer.beta2", "0.95"},
      {"optimizer.eps", "1.0e-18"},
      {"optimizer.weight_decay", "0.0"},
      {"optimizer.clip", "0.0"},
      {"trainer.steps", "1000000000"},
      {"trainer.global_batch", "32"},
      {"trainer.micro_batch", "2"},
      {"trainer.validate_every", "11"},
      {"trainer.log_every", "12"},
      {"trainer.threads", "13"},
      {"trainer.checkpoint.every", "14"},
      {"trainer.checkpoint.keep", "15"},
      {"trainer.checkpoint.every_minutes", "22"},
      {"trainer.checkpoint.keep_every", "23"},
      {"trainer.checkpoint.keep_best", "24"},
      {"trainer.checkpoint.on_failure", "go_on"},
      {"trainer.checkpoint.fall_back", "true"},
      {"trainer.init.from", "\"runs/a\""},
      {"trainer.init.fresh", "\"*.state.*, *.middle.*\""},
      {"trainer.init.unused", "\"head.*\""},
      {"trainer.time_limit", "25"},
      {"trainer.grace", "26"},
      {"trainer.stuck_after.start", "16"},
      {"trainer.stuck_after.data", "17"},
      {"trainer.stuck_after.compute", "18"},
      {"trainer.stuck_after.collective", "19"},
      {"trainer.stuck_after.validation", "20"},
      {"trainer.stuck_after.checkpoint", "21"},
  };
  return values;
}

std::string nested_yaml(const std::string& path, const std::string& value) {
  std::string yaml, indent;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, '.'); indent += "  ") {
    yaml += (yaml.empty() ? "" : "\n") + indent + part + ":";
  }
  return yaml + " " + value + "\n";
}

// What must be set beside a key, in its section, for its other value to have a meaning.
const std::map<std::string, std::string>& companions() {
  static const std::map<std::string, std::string> settings = {
      {"data.task.count", "name: needle"},
      {"data.task.pause_tokens", "name: s5"},
      {"data.task.random_filler", "name: mqar, vocabulary: 64"},
      {"data.task.shortest", "name: parity"},
      {"data.task.test_lengths", "name: parity"},
      {"data.task.vocabulary", "name: needle"},
      {"model.attention.global_every", "window: 64"},
      {"model.attention.rope_factor", "rope_scaling: linear"},
      {"model.middle.heads", "mode: mixed"},
      {"model.state.kv", "heads: 4"},
      {"trainer.init.fresh", "from: runs/a"},
      {"trainer.init.unused", "from: runs/a"},
  };
  return settings;
}

Config before_change(const std::string& path) {
  const auto companion = companions().find(path);
  if (companion == companions().end()) return {};
  return parse_config(nested_yaml(std::string(section_of(path)), "{" + companion->second + "}"), "test.yaml");
}

Config after_change(const std::string& path, const std::string& value) {
  const auto companion = companions().find(path);
  if (companion == companions().end()) return parse_config(nested_yaml(path, value), "test.yaml");
  const std::string both = "{" + companion->second + ", " + std::string(last_part(path)) + ": " + value + "}";
  return parse_config(nested_yaml(std::string(section_of(path)), both), "test.yaml");
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

TEST(ConfigKeys, HaveDistinctPathsHelpAndAKindThatReadsItsDefault) {
  std::set<std::string_view> paths;
  for (const Key& key : config_keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    EXPECT_FALSE(key.help.empty()) << key.path;
    EXPECT_EQ(find_key(key.path), &key);
    EXPECT_FALSE(is_section(key.path)) << key.path;
    EXPECT_EQ(other_values().count(std::string(key.path)), 1U) << key.path;
  }
  EXPECT_EQ(config_keys().size(), other_values().size());
  EXPECT_EQ(find_key("model"), nullptr);
  EXPECT_EQ(find_key(""), nullptr);
}

TEST(ConfigKeys, StandTogetherBySection) {
  std::set<std::string_view> closed;
  std::string_view open;
  for (const Key& key : config_keys()) {
    const std::string_view section = section_of(key.path);
    if (section == open) continue;
    EXPECT_TRUE(closed.insert(section).second) << section << " is opened twice";
    open = section;
  }
}

TEST(ConfigKeys, ChangeExactlyOneLineOfTheResolvedConfiguration) {
  for (const auto& [path, value] : other_values()) {
    const std::vector<std::string> before = lines_of(to_yaml(before_change(path)));
    const std::vector<std::string> after = lines_of(to_yaml(after_change(path, value)));
    ASSERT_EQ(after.size(), before.size());
    std::vector<std::string> changed;
    for (std::size_t i = 0; i < after.size(); ++i) {
      if (after[i] != before[i]) changed.push_back(after[i]);
    }
    ASSERT_EQ(changed.size(), 1U) << path;
    const std::string expected = std::string(last_part(path)) + ": " + value;
    EXPECT_EQ(changed[0].substr(changed[0].find_first_not_of(' ')), expected);
  }
}

TEST(ConfigKeys, OnlySharedKeysChangeTheIdentity) {
  const std::set<std::string> free = {"data.train",
                                      "data.validation",
                                      "data.task.test_samples",
                                      "parallel.data",
                                      "parallel.tensor",
                                      "parallel.device",
                                      "parallel.share_gpus",
                                      "parallel.sequence",
                                      "parallel.reduction",
                                      "parallel.check_calls",
                                      "parallel.shard_optimizer",
                                      "trainer.steps",
                                      "trainer.validate_every",
                                      "trainer.log_every",
                                      "trainer.threads",
                                      "trainer.checkpoint.every",
                                      "trainer.checkpoint.keep",
                                      "trainer.checkpoint.every_minutes",
                                      "trainer.checkpoint.keep_every",
                                      "trainer.checkpoint.keep_best",
                                      "trainer.checkpoint.on_failure",
                                      "trainer.checkpoint.fall_back",
                                      "trainer.time_limit",
                                      "trainer.grace",
                                      "trainer.stuck_after.start",
                                      "trainer.stuck_after.data",
                                      "trainer.stuck_after.compute",
                                      "trainer.stuck_after.collective",
                                      "trainer.stuck_after.validation",
                                      "trainer.stuck_after.checkpoint"};
  std::set<std::uint64_t> identities = {identity_hash(Config{})};
  for (const auto& [path, value] : other_values()) {
    const Config before = before_change(path), after = after_change(path, value);
    const std::vector<std::string> lines = differences(before, after);
    if (free.count(path) > 0) {
      EXPECT_EQ(identity_hash(after), identity_hash(before)) << path;
      EXPECT_TRUE(lines.empty()) << path;
    } else {
      EXPECT_TRUE(identities.insert(identity_hash(after)).second) << path;
      ASSERT_EQ(lines.size(), 1U) << path;
      EXPECT_THAT(lines[0], testing::StartsWith(path + ": "));
      EXPECT_THAT(lines[0], testing::EndsWith(" -> " + value));
    }
  }
  for (const Key& key : config_keys()) {
    EXPECT_EQ(key.resume == Resume::free, free.count(std::string(key.path)) == 1) << key.path;
  }
}

TEST(ConfigKeys, AreAllDescribed) {
  const std::string text = describe_config_keys();
  std::set<std::string> described;
  for (const std::string& line : lines_of(text)) {
    EXPECT_LE(line.size(), 110U) << line;
    std::string first;
    std::istringstream(line) >> first;
    if (first.ends_with('*')) first.pop_back();
    const Key* key = line.starts_with(' ') ? nullptr : find_key(first);
    if (!key) continue;
    described.insert(first);
    std::string word;
    std::istringstream(std::string(key->help)) >> word;
    EXPECT_THAT(line, HasSubstr(word));
  }
  EXPECT_EQ(described.size(), config_keys().size());
  EXPECT_THAT(text, HasSubstr("auto | int"));
  EXPECT_THAT(text, HasSubstr("64 | 128"));
  EXPECT_THAT(text, HasSubstr("swiglu | gelu | relu2 | rwkv"));
  EXPECT_THAT(text, HasSubstr("[tokens]"));
}

// Every field by name, so that no two keys can have swapped their places in Config.
TEST(ConfigKeys, ReachTheirOwnFields) {
  Config config = parse_config(
      "seed: 1\n"
      "model: {width: 2, layers: 3, vocab_size: 4, norm: layer, norm_eps: 0.5, embedding_norm: true, "
      "tied_head: true,\n"
      "        init: rwkv, attention: {heads: 6, kv_heads: 3, head_size: 8, rope_base: 9.5},\n"
      "        state: {heads: 10, head_size: 128, decay_rank: 11, rate_rank: 12, value_rank: 13, gate_rank: "
      "14},\n"
      "        fusion: {mode: concat, alpha: fixed, attention_norm: false}, ffn: {kind: rwkv, hidden: 15}}\n"
      "data: {train: a, validation: b, sequence_length: 16, separate_documents: false}\n"
      "parallel: {data: 2, tensor: 3, device: cuda, share_gpus: true, reduction: fast, shard_optimizer: "
      "false}\n"
      "optimizer: {lr: 0.25, min_lr: 0.125, warmup_steps: 17, schedule: constant, beta1: 0.75, beta2: 0.625, "
      "eps: 0.375,\n"
      "            weight_decay: 18.5, clip: 19.5}\n"
      "trainer: {steps: 20, global_batch: 44, micro_batch: 22, validate_every: 23, log_every: 24, threads: "
      "25,\n"
      "          checkpoint: {every: 26, keep: 27, every_minutes: 28, keep_every: 29, keep_best: 30, "
      "on_failure: go_on, fall_back: true},\n"
      "          init: {from: x, fresh: y, unused: z}, time_limit: 31, grace: 32}\n",
      "test.yaml");
  const model::ModelConfig& m = config.model;
  EXPECT_EQ(config.seed, 1);
  EXPECT_EQ(
      std::tuple(m.width, m.layers, m.vocab_size, m.norm, m.norm_eps, m.embedding_norm, m.tied_head, m.init),
      std::tuple(2, 3, 4, model::NormKind::layer, 0.5, true, true, model::InitKind::rwkv));
  EXPECT_EQ(std::tuple(m.attention.heads, m.attention.kv_heads, m.attention.head_size, m.attention.rope_base),
            std::tuple(6, 3, 8, 9.5));
  EXPECT_EQ(std::tuple(m.state.heads, m.state.head_size, m.state.decay_rank, m.state.rate_rank,
                       m.state.value_rank, m.state.gate_rank),
            std::tuple(10, 128, 11, 12, 13, 14));
  EXPECT_EQ(std::tuple(m.fusion.mode, m.fusion.alpha, m.fusion.attention_norm),
            std::tuple(model::FusionMode::concat, model::Alpha::fixed, false));
  EXPECT_EQ(std::tuple(m.feed_forward.kind, m.feed_forward.hidden),
            std::tuple(model::FeedForwardKind::rwkv, 15));
  const data::DataConfig& d = config.data;
  EXPECT_EQ(std::tuple(d.train, d.validation, d.sequence_length, d.separate_documents),
            std::tuple("a", "b", 16, false));
  const parallel::ParallelConfig& p = config.parallel;
  EXPECT_EQ(std::tuple(p.data, p.tensor, p.device, p.share_gpus, p.reduction, p.shard_optimizer),
            std::tuple(2, 3, parallel::DeviceKind::cuda, true, parallel::Reduction::fast, false));
  const OptimizerConfig& o = config.optimizer;
  EXPECT_EQ(
      std::tuple(o.lr, o.min_lr, o.warmup_steps, o.schedule, o.beta1, o.beta2, o.eps, o.weight_decay, o.clip),
      std::tuple(0.25, 0.125, 17, OptimizerConfig::Schedule::constant, 0.75, 0.625, 0.375, 18.5, 19.5));
  const TrainerConfig& t = config.trainer;
  EXPECT_EQ(
      std::tuple(t.steps, t.global_batch, t.micro_batch, t.validate_every, t.log_every, t.threads,
                 t.checkpoint.every, t.checkpoint.keep, t.checkpoint.every_minutes, t.checkpoint.keep_every,
                 t.checkpoint.keep_best, t.checkpoint.on_failure, t.checkpoint.fall_back),
      std::tuple(20, 44, 22, 23, 24, 25, 26, 27, 28, 29, 30, CheckpointConfig::OnFailure::go_on, true));
  EXPECT_EQ(std::tuple(t.init.from, t.init.fresh, t.init.unused, t.time_limit, t.grace),
            std::tuple("x", "y", "z", 31, 32));
}

TEST(ConfigKeys, OfATaskReachTheirOwnFields) {
  const data::TaskConfig recall =
      parse_config(
          "data: {sequence_length: 16, task: {name: mqar, vocabulary: 24, count: 3, random_filler: true,\n"
          "       train_samples: 28, test_samples: 29, test_lengths: 32}}\n",
          "test.yaml")
          .data.task;
  EXPECT_EQ(std::tuple(recall.name, recall.vocabulary, recall.count, recall.random_filler,
                       recall.train_samples, recall.test_samples, recall.test_lengths),
            std::tuple(data::TaskName::mqar, 24, 3, true, 28, 29, "32"));
  const std::string parity = "data: {task: {name: parity, shortest: 5}}\n";
  EXPECT_EQ(parse_config(parity, "test.yaml").data.task.shortest, 5);
}

TEST(ConfigKeys, FloatsRoundTripToTheLastBit) {
  std::mt19937_64 random(1);
  Config config;
  for (int i = 0; i < 500; ++i) {
    const std::uint64_t bits = random() >> 1;  // positive
    const double value = std::bit_cast<double>(bits);
    if (!std::isfinite(value)) continue;
    config.optimizer.weight_decay = value;
    const double read = parse_config(to_yaml(config), "test.yaml").optimizer.weight_decay;
    ASSERT_EQ(std::bit_cast<std::uint64_t>(read), bits) << value;
  }
}

TEST(ConfigKeys, TextsRoundTrip) {
  Config config;
  for (const std::string text :
       {"plain", "with space", "a: b # c", "quote\"d", "o'clock", "back\\slash", "tab\tnew\nline\r",
        "Gr\xc3\xbc\xc3\x9f"
        "e \xe2\x80\xa8 \xf0\x9f\x98\x80",
        "\x01\x7f\x1f", "null", "~", "", "- x", "{a}", "&x *y !z %w @v", " edge "}) {
    config.data.train = text;
    EXPECT_EQ(parse_config(to_yaml(config), "test.yaml").data.train, text);
  }
}

}  // namespace
}  // namespace wuneng::trainer
