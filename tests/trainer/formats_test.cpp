// What each format of other programs can hold, key by key.
#include "trainer/formats/format.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <set>

#include "common/check.h"
#include "tests/support/scratch.h"
#include "trainer/config_keys.h"

namespace wuneng::tests {
namespace {

using namespace wuneng::trainer;
using testing::AllOf;
using testing::HasSubstr;

// A model that the format holds, with further settings "key=value".
Config model_of(const std::string& format, const std::vector<std::string>& overrides = {}) {
  const std::string kind = format == "llama" ? "transformer" : format == "rwkv" ? "rwkv7" : format;
  return load_config(std::string(std::getenv("WUNENG_SOURCE")) + "/configs/models/tiny-" + kind + ".yaml",
                     overrides);
}

struct Refusal {
  const char* format;
  std::vector<std::string> overrides;
  const char* limit;  // what the message says that the format holds
  const char* value;  // and the model has
};

const Refusal refusals[] = {
    {"llama", {"model.state.heads=2"}, "model.state.heads = 0", "model.state.heads = 2"},
    {"llama", {"model.norm=layer"}, "model.norm = rms", "model.norm = layer"},
    {"llama", {"model.ffn.kind=gelu"}, "model.ffn.kind = swiglu", "model.ffn.kind = gelu"},
    {"llama", {"model.embedding_norm=true"}, "= false", "model.embedding_norm = true"},
    {"llama", {"model.learned_positions=64"}, "= 0", "model.learned_positions = 64"},
    {"llama", {"model.attention.positions=none"}, "= rope", "model.attention.positions = none"},
    {"llama",
     {"model.attention.rope_scaling=ntk", "model.attention.rope_factor=2"},
     "none or linear",
     "model.attention.rope_scaling = ntk"},
    {"llama", {"model.attention.qk_norm=true"}, "= false", "model.attention.qk_norm = true"},
    {"llama", {"model.attention.window=16"}, "= 0", "model.attention.window = 16"},
    {"llama", {"model.attention.softcap=30"}, "= 0.0", "model.attention.softcap = 30.0"},

    {"gpt2", {"model.state.heads=2"}, "model.state.heads = 0", "model.state.heads = 2"},
    {"gpt2", {"model.norm=rms"}, "model.norm = layer", "model.norm = rms"},
    {"gpt2", {"model.ffn.kind=relu2"}, "model.ffn.kind = gelu", "model.ffn.kind = relu2"},
    {"gpt2", {"model.biases=false"}, "= true", "model.biases = false"},
    {"gpt2", {"model.embedding_norm=true"}, "= false", "model.embedding_norm = true"},
    {"gpt2", {"model.learned_positions=0"}, "learned positions", "model.learned_positions = 0"},
    {"gpt2", {"model.attention.positions=rope"}, "= none", "model.attention.positions = rope"},
    {"gpt2", {"model.attention.qk_norm=true"}, "= false", "model.attention.qk_norm = true"},
    {"gpt2", {"model.attention.window=16"}, "= 0", "model.attention.window = 16"},
    {"gpt2", {"model.attention.softcap=30"}, "= 0.0", "model.attention.softcap = 30.0"},
    {"gpt2", {"model.attention.kv_heads=1"}, "for each head", "model.attention.kv_heads = 1"},
    {"gpt2",
     {"model.attention.head_size=16"},
     "width together",
     "model.attention.heads = 2 of model.attention.head_size = 16"},

    {"rwkv", {"model.attention.heads=2"}, "model.attention.heads = 0", "model.attention.heads = 2"},
    {"rwkv", {"model.state.heads=2"}, "width together", "model.state.heads = 2"},
    {"rwkv", {"model.state.head_size=128"}, "= 64", "model.state.head_size = 128"},
    {"rwkv", {"model.state.read=double"}, "= single", "model.state.read = double"},
    {"rwkv", {"model.state.boundary_states=2"}, "= 0", "model.state.boundary_states = 2"},
    {"rwkv", {"model.state.negative_eigenvalues=true"}, "= false", "model.state.negative_eigenvalues = true"},
    {"rwkv", {"model.state.value_residual=false"}, "= true", "model.state.value_residual = false"},
    {"rwkv", {"model.ffn.kind=swiglu"}, "= rwkv", "model.ffn.kind = swiglu"},
    {"rwkv", {"model.norm=rms"}, "= layer", "model.norm = rms"},
    {"rwkv", {"model.norm_eps=1e-6"}, "model.norm_eps = 1.0e-05", "model.norm_eps = 1.0e-06"},
    {"rwkv", {"model.embedding_norm=false"}, "= true", "model.embedding_norm = false"},
    {"rwkv", {"model.learned_positions=64"}, "= 0", "model.learned_positions = 64"},
};

TEST(Formats, RefuseWithTheSettingWhatTheyCannotHold) {
  for (const Refusal& refusal : refusals) {
    const Config config = model_of(refusal.format, refusal.overrides);
    const std::string message = message_of<UsageError>([&] { format_named(refusal.format).check(config); });
    EXPECT_THAT(message, AllOf(HasSubstr(std::string("--format ") + refusal.format), HasSubstr(refusal.limit),
                               HasSubstr(std::string("this one has ") + refusal.value),
                               HasSubstr("--format safetensors")));
  }
}

// Keys of the model that a format stores, or that change nothing in what a trained model computes.
const std::map<std::string, std::set<std::string_view>> held{
    {"llama",
     {"model.width", "model.layers", "model.vocab_size", "model.pattern", "model.norm_eps", "model.biases",
      "model.tied_head", "model.attention.heads", "model.attention.kv_heads", "model.attention.head_size",
      "model.attention.rope_base", "model.attention.rope_factor", "model.ffn.hidden"}},
    {"gpt2",
     {"model.width", "model.layers", "model.vocab_size", "model.pattern", "model.norm_eps", "model.tied_head",
      "model.learned_positions", "model.attention.heads", "model.ffn.hidden"}},
    {"rwkv",
     {"model.width", "model.layers", "model.vocab_size", "model.pattern", "model.tied_head",
      "model.state.heads", "model.state.decay_rank", "model.state.rate_rank", "model.state.value_rank",
      "model.state.gate_rank", "model.ffn.hidden"}}};
const std::set<std::string_view> of_training{"model.z_loss", "model.logit_pull", "model.init"};

// What a key of these has no effect on: models without such heads, or without both kinds.
bool without_effect(const std::string& format, std::string_view key) {
  if (key.starts_with("model.fusion.") || key.starts_with("model.middle.")) return true;
  if (format == "rwkv")  // shared keys and values are those of attention heads
    return key.starts_with("model.attention.") || key == "model.biases" || key == "model.state.kv" ||
           key == "model.state.value";
  return key.starts_with("model.state.") || (format == "gpt2" && key.starts_with("model.attention.rope_")) ||
         key == "model.attention.global_every";  // needs a window
}

std::set<std::string_view> keys_that_the_test_above_knows(const std::string& format) {
  std::set<std::string_view> keys;
  for (const Refusal& refusal : refusals)
    if (refusal.format == format)
      for (const std::string& override : refusal.overrides)
        keys.insert(std::string_view(override).substr(0, override.find('=')));
  return keys;
}

// A key that somebody adds to the model must be refused by each format or be listed here.
TEST(Formats, EveryKeyOfTheModelIsHeldOrRefused) {
  for (const auto& [format, keys] : held) {
    const auto refused = keys_that_the_test_above_knows(format);
    for (const Key& key : config_keys()) {
      const bool known = keys.contains(key.path) || refused.contains(key.path) ||
                         of_training.contains(key.path) || without_effect(format, key.path);
      EXPECT_TRUE(known || !key.path.starts_with("model.")) << format << " says nothing about " << key.path;
    }
  }
}

TEST(Formats, NoTensorIsLostInTheTables) {
  const std::pair<const char*, std::vector<std::string>> models[] = {
      {"llama", {}}, {"llama", {"model.tied_head=true", "model.biases=true", "model.attention.kv_heads=1"}},
      {"gpt2", {}},  {"gpt2", {"model.tied_head=false", "model.ffn.hidden=40"}},
      {"rwkv", {}},  {"rwkv", {"model.tied_head=true", "model.biases=true"}}};
  for (const auto& [name, overrides] : models) {
    const Config config = model_of(name, overrides);
    const Format& format = format_named(name);
    format.check(config);
    NamedTensors ours;
    std::int64_t numbers = 0, theirs = 0;
    for (const parallel::Parameter& parameter : model::LanguageModel::parameter_shapes(config.model)) {
      ours.emplace_back(parameter.name, parameter.value.detach());
      numbers += parameter.value.numel();
    }
    TensorPairs pairs(ours);
    format.pair(config.model, pairs);
    for (const auto& [their_name, tensor] : pairs.to_theirs()) theirs += tensor.numel();
    const bool repeats = std::string_view(name) == "rwkv" && config.model.tied_head;
    EXPECT_EQ(theirs, numbers + (repeats ? config.model.vocab_size * config.model.width : 0)) << name;
  }
}

TEST(Formats, ATensorWithoutAPlaceIsNotLeftOut) {
  const Config config = model_of("llama", {"model.attention.qk_norm=true"});
  NamedTensors ours;
  for (const parallel::Parameter& parameter : model::LanguageModel::parameter_shapes(config.model))
    ours.emplace_back(parameter.name, parameter.value.detach());
  TensorPairs pairs(ours);
  format_named("llama").pair(config.model, pairs);
  EXPECT_THAT(message_of<UsageError>([&] { pairs.to_theirs(); }),
              AllOf(HasSubstr("layers.0.attention.query_norm.weight"), HasSubstr("--format safetensors")));
}

}  // namespace
}  // namespace wuneng::tests
