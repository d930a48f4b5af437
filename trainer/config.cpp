#include "trainer/config.h"

#include "common/check.h"
#include "common/hash.h"
#include "data/tasks/task_set.h"
#include "parallel/gradient_tree.h"
#include "trainer/config_file.h"

namespace wuneng::trainer {
namespace {

Config config_of(const std::vector<Setting>& settings) {
  Config config;
  for (const Setting& setting : settings) set_value(*setting.key, setting.value, config);
  return config;
}

void check_at(const std::string& place, const Config& config) {
  try {
    check(config);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", place, error.what()));
  }
}

void check_batches(const Config& config) {
  const TrainerConfig& trainer = config.trainer;
  const std::int64_t global = trainer.global_batch, micro = trainer.micro_batch;
  WN_REQUIRE(micro <= global, "trainer.micro_batch = {}: must be at most trainer.global_batch = {}", micro,
             global);
  const std::int64_t below = global / micro * micro;
  WN_REQUIRE(
      below == global,
      "trainer.global_batch = {}: must be a multiple of trainer.micro_batch = {}; the nearest are {} and {}",
      global, micro, below, below + micro);
  if (config.parallel.data > 0)
    parallel::check_tree(global / micro, config.parallel.data, config.parallel.reduction);

  constexpr double most_tokens = 1e18;  // so that counters of 64 bits hold every product of the three
  const double tokens = static_cast<double>(trainer.steps) * static_cast<double>(global) *
                        static_cast<double>(config.data.sequence_length);
  WN_REQUIRE(tokens <= most_tokens,
             "trainer.steps = {} x trainer.global_batch = {} x data.sequence_length = {} is more than {} "
             "tokens: lower "
             "trainer.steps",
             trainer.steps, global, config.data.sequence_length, most_tokens);
}

void check_init(const InitConfig& init) {
  WN_REQUIRE(!init.from.empty() || (init.fresh.empty() && init.unused.empty()),
             "trainer.init.{} = \"{}\": says which tensors of trainer.init.from are used, which is not set",
             init.fresh.empty() ? "unused" : "fresh", init.fresh.empty() ? init.unused : init.fresh);
}

void check_schedule(const OptimizerConfig& optimizer, std::int64_t steps) {
  const bool descends =
      optimizer.schedule != OptimizerConfig::Schedule::cosine || optimizer.min_lr <= optimizer.lr;
  WN_REQUIRE(descends, "optimizer.min_lr = {}: must be at most optimizer.lr = {}", optimizer.min_lr,
             optimizer.lr);
  WN_REQUIRE(optimizer.warmup_steps <= steps,
             "optimizer.warmup_steps = {}: must be at most trainer.steps = {}", optimizer.warmup_steps,
             steps);
}

void check_data(const Config& config) {
  const data::DataConfig& data = config.data;
  std::int64_t longest = data.sequence_length;
  if (data.task.name == data::TaskName::none) {
    data::check_no_task(data.task);
  } else {
    const auto refuse_corpus = [&](std::string_view key, const std::string& prefix) {
      WN_REQUIRE(prefix.empty(), "{} = {}: data.task.name = {} makes its own data; leave one of them out",
                 key, prefix, data::spelling(data.task.name));
    };
    refuse_corpus("data.train", data.train);
    refuse_corpus("data.validation", data.validation);
    const data::TaskExamples examples(data, static_cast<std::uint64_t>(config.seed));
    const std::int64_t vocabulary = examples.task().vocabulary();
    WN_REQUIRE(vocabulary <= config.model.vocab_size,
               "model.vocab_size = {}: data.task.name = {} has {} token ids; set model.vocab_size={} or more",
               config.model.vocab_size, data::spelling(data.task.name), vocabulary, vocabulary);
    longest = examples.longest();
  }
  const std::int64_t positions = config.model.learned_positions;
  WN_REQUIRE(positions == 0 || data.sequence_length <= positions,
             "data.sequence_length = {}: must be at most model.learned_positions = {}", data.sequence_length,
             positions);
  WN_REQUIRE(positions == 0 || longest <= positions,
             "data.task.test_lengths: {} tokens must be at most model.learned_positions = {}", longest,
             positions);
}

void write_section(const std::string& section, int depth, const Config& config, std::string& text) {
  for (const std::string_view name : names_in(section)) {
    const std::string path = section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
    const Key* key = find_key(path);
    text += fmt::format("{:{}}{}:", "", 2 * depth, name);
    text += key ? fmt::format(" {}\n", value_text(*key, config)) : "\n";
    if (!key) write_section(path, depth + 1, config, text);
  }
}

}  // namespace

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  std::vector<Setting> settings = read_config_file(file);
  for (const std::string& assignment : overrides) settings.push_back(read_override(assignment));
  const Config config = config_of(settings);
  check_at(file.string(), config);
  return config;
}

Config parse_config(const std::string& yaml, const std::string& place) {
  const Config config = config_of(read_config_text(yaml, place));
  check_at(place, config);
  return config;
}

std::string to_yaml(const Config& config) {
  std::string text;
  write_section("", 0, config, text);
  return text;
}

void check(const Config& config) {
  model::check(config.model);
  check_data(config);
  if (config.parallel.tensor > 0) check_sequence(config, config.parallel.tensor);
  check_batches(config);
  check_init(config.trainer.init);
  check_schedule(config.optimizer, config.trainer.steps);
}

void check_sequence(const Config& config, std::int64_t ranks) {
  const std::int64_t tokens = config.data.sequence_length, below = tokens / ranks * ranks;
  WN_REQUIRE(
      !config.parallel.sequence || below == tokens,
      "data.sequence_length = {}: with parallel.sequence it must be a multiple of parallel.tensor = {}; "
      "the nearest are {} and {}",
      tokens, ranks, below, below + ranks);
}

std::vector<std::string> differences(const Config& ours, const Config& theirs) {
  std::vector<std::string> lines;
  for (const Key& key : config_keys()) {
    const std::string our_value = value_text(key, ours), their_value = value_text(key, theirs);
    if (key.resume == Resume::free || our_value == their_value) continue;
    lines.push_back(fmt::format("{}: {} -> {}", key.path, our_value, their_value));
  }
  return lines;
}

std::uint64_t identity_hash(const Config& config) {
  std::string text;
  for (const Key& key : config_keys()) {
    if (key.resume == Resume::shared) text += fmt::format("{}={}\n", key.path, value_text(key, config));
  }
  return hash_text(text);
}

}  // namespace wuneng::trainer
