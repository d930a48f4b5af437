// Every model of configs/models and every fusion with every kind of middle heads, so small that dozens of
// them train in a test, with heads that four ranks can share.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/config.h"

namespace wuneng::trainer {

struct SmallConfig {
  std::string name;
  Config config;
};

inline Config made_small(Config config) {
  model::ModelConfig& m = config.model;
  m.width = 32;
  m.layers = std::max<std::int64_t>(2, std::ssize(m.pattern));
  m.vocab_size = 257;
  m.feed_forward.hidden = 64;
  if (m.attention.heads > 0) {
    m.attention.kv_heads = m.attention.kv_heads == 0 || m.attention.kv_heads == m.attention.heads ? 0 : 2;
    m.attention.heads = 4;
    m.attention.head_size = 8;
  }
  if (m.state.heads > 0) m.state.heads = 4;
  if (m.middle.mode != model::MiddleMode::none)
    m.middle.heads = m.middle.mode == model::MiddleMode::mixed ? 12 : 4;
  if (m.learned_positions > 0) m.learned_positions = 16;
  config.data.sequence_length = 16;
  config.trainer.steps = 20;
  config.trainer.global_batch = 16;
  config.trainer.micro_batch = 1;  // 16 of them: eight ranks accumulate two each
  config.trainer.threads = 1;
  config.optimizer.warmup_steps = 0;
  return config;
}

inline std::filesystem::path configs_folder() {
  return std::filesystem::path(std::getenv("WUNENG_SOURCE")) / "configs";
}

// The kinds of models, each once: they come in several sizes, of which the others differ in numbers alone.
inline std::vector<SmallConfig> small_models() {
  std::vector<SmallConfig> found;
  for (const auto& entry : std::filesystem::directory_iterator(configs_folder() / "models"))
    if (const std::string name = entry.path().stem().string(); name.starts_with("25m-"))
      found.push_back({name.substr(4), made_small(load_config(entry.path()))});
  std::ranges::sort(found, {}, &SmallConfig::name);
  return found;
}

inline SmallConfig small_hybrid(const std::string& fusion, const std::string& middle) {
  return {fusion + "/" + middle,
          made_small(load_config(configs_folder() / "tiny.yaml",
                                 {"model.fusion.mode=" + fusion, "model.middle.mode=" + middle}))};
}

inline std::vector<SmallConfig> small_hybrids() {
  std::vector<SmallConfig> all;
  for (const char* fusion : {"concat", "additive", "gated"})
    for (const char* middle : {"none", "concat", "additive", "gated", "key", "mixed"})
      all.push_back(small_hybrid(fusion, middle));
  return all;
}

}  // namespace wuneng::trainer
