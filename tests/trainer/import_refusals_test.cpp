// Models that cannot be imported: one message with place, value and remedy.
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"
#include "tests/support/scratch.h"
#include "trainer/formats/format.h"
#include "trainer/formats/pth.h"
#include "trainer/import.h"

namespace wuneng::tests {
namespace {

using namespace wuneng::trainer;
using testing::HasSubstr;

using Tensors = std::map<std::string, at::Tensor>;

// A tensor of the file of a model of the folder configs/models, all of whose numbers are 1.
Tensors tensors_of(const std::string& format, const std::string& model) {
  const Config config = load_config(std::string(std::getenv("WUNENG_SOURCE")) + "/configs/models/" + model);
  NamedTensors ours;
  for (const parallel::Parameter& parameter : model::LanguageModel::parameter_shapes(config.model))
    ours.emplace_back(parameter.name, at::ones(parameter.global_shape));
  TensorPairs pairs(ours);
  format_named(format).pair(config.model, pairs);
  Tensors tensors;
  for (const auto& [name, tensor] : pairs.to_theirs()) tensors[name] = tensor;
  return tensors;
}

NamedTensors listed(const Tensors& tensors) { return {tensors.begin(), tensors.end()}; }

class ImportRefusals : public testing::Test {
 protected:
  ImportRefusals() { make_folder(folder()); }

  std::filesystem::path folder() const { return scratch / "source"; }
  void write(const Json& config, const Tensors& tensors) const {
    write_file_atomically(folder() / "config.json", config.dump());
    write_safetensors(folder() / "model.safetensors", listed(tensors));
  }

  void expect_refused(const std::filesystem::path& path, const std::string& format,
                      const std::vector<std::string>& parts,
                      const std::vector<std::string>& overrides = {}) const {
    const std::string message = message_of<UsageError>([&] { import_model({path, format, overrides, ""}); });
    for (const std::string& part : parts) EXPECT_THAT(message, HasSubstr(part));
  }

  // The good configuration with these fields instead; one that is "absent" is taken out.
  void expect_config_refused(const std::string& format, const Json& good, const Json& fields,
                             const std::vector<std::string>& parts) const {
    Json config = good;
    for (const auto& [name, value] : fields.items())
      if (value == "absent")
        config.erase(name);
      else
        config[name] = value;
    write_file_atomically(folder() / "config.json", config.dump());
    expect_refused(folder(), format, parts);
  }

  Scratch scratch;
  const Json llama{{"model_type", "llama"},    {"hidden_size", 64},        {"num_hidden_layers", 2},
                   {"num_attention_heads", 2}, {"intermediate_size", 192}, {"vocab_size", 257},
                   {"hidden_act", "silu"},     {"rms_norm_eps", 1e-5},     {"max_position_embeddings", 64},
                   {"rope_theta", 10000.0}};
  const Json gpt2{
      {"model_type", "gpt2"}, {"n_embd", 64},      {"n_layer", 2},       {"n_head", 2},
      {"n_positions", 64},    {"vocab_size", 257}, {"n_inner", nullptr}, {"layer_norm_epsilon", 1e-5}};
};

// ---- configurations ----

TEST_F(ImportRefusals, LlamasThatNoSettingComputes) {
  write(llama, tensors_of("llama", "tiny-transformer.yaml"));
  import_model({folder(), "llama", {}, ""});
  const std::pair<Json, std::vector<std::string>> cases[] = {
      {{{"model_type", "mistral"}}, {"config.json: model_type = \"mistral\"", "\"llama\""}},
      {{{"hidden_act", "relu"}}, {"hidden_act = \"relu\"", "\"silu\" or \"swish\""}},
      {{{"rope_scaling", {{"rope_type", "llama3"}, {"factor", 8.0}}}},
       {"rope_scaling: rope_type = \"llama3\"", "\"default\" or \"linear\""}},
      {{{"rope_scaling", {{"type", "dynamic"}, {"factor", 8.0}}}}, {"rope_type = \"dynamic\""}},
      {{{"rope_parameters", {{"rope_type", "yarn"}}}}, {"rope_parameters: rope_type = \"yarn\""}},
      {{{"rope_parameters", {{"partial_rotary_factor", 0.5}}}}, {"partial_rotary_factor = 0.5", "1.0"}},
      {{{"rope_scaling", {{"type", "linear"}}}}, {"factor = null", "number"}},
      {{{"rope_scaling", {{"type", "linear"}, {"factor", 0.5}}}}, {"factor = 0.5", "at least 1"}},
      {{{"rope_scaling", "linear"}}, {"rope_scaling = \"linear\"", "object"}},
      {{{"rope_theta", "big"}}, {"rope_theta = \"big\"", "number"}},
      {{{"attention_bias", true}}, {"mlp_bias = null: must be true", "attention_bias"}},
      {{{"mlp_bias", true}}, {"mlp_bias = true: must be false"}},
      {{{"head_dim", 7}}, {"head_size = 7", "even"}},
      {{{"head_dim", "wide"}}, {"head_dim = \"wide\"", "integer"}},
      {{{"hidden_size", "absent"}}, {"config.json: hidden_size: is missing"}},
      {{{"hidden_size", -64}}, {"config.json: hidden_size = -64", "at least 1"}},
      {{{"num_hidden_layers", 2.0}}, {"num_hidden_layers = 2.0", "integer"}},
      {{{"num_attention_heads", 0}}, {"head_dim = null"}},
      {{{"num_key_value_heads", 3}}, {"kv_heads = 3", "at most"}},
      {{{"tie_word_embeddings", 1}}, {"tie_word_embeddings = 1", "true or false"}},
      {{{"vocab_size", 300}}, {"model.embed_tokens.weight: is Float [257, 64]", "[300, 64] is wanted"}},
      {{{"quantization_config", {{"bits", 4}}}}, {"quantization_config", "floating-point"}}};
  for (const auto& [fields, parts] : cases) expect_config_refused("llama", llama, fields, parts);
}

TEST_F(ImportRefusals, Gpt2sThatNoSettingComputes) {
  write(gpt2, tensors_of("gpt2", "tiny-gpt2.yaml"));
  import_model({folder(), "gpt2", {}, ""});
  const std::pair<Json, std::vector<std::string>> cases[] = {
      {{{"model_type", "gpt_neo"}}, {"model_type = \"gpt_neo\"", "\"gpt2\""}},
      {{{"scale_attn_by_inverse_layer_idx", true}}, {"scale_attn_by_inverse_layer_idx = true", "false"}},
      {{{"scale_attn_weights", false}}, {"scale_attn_weights = false", "must be true"}},
      {{{"add_cross_attention", true}}, {"add_cross_attention = true"}},
      {{{"activation_function", "gelu"}}, {"activation_function = \"gelu\"", "\"gelu_new\""}},
      {{{"n_head", 5}}, {"n_head = 5", "n_embd = 64"}},
      {{{"n_head", 0}}, {"n_head = 0"}},
      {{{"n_positions", 0}}, {"n_positions = 0", "at least 1"}}};
  for (const auto& [fields, parts] : cases) expect_config_refused("gpt2", gpt2, fields, parts);
}

TEST_F(ImportRefusals, SettingsThatMakeItAnotherModel) {
  write(gpt2, tensors_of("gpt2", "tiny-gpt2.yaml"));
  expect_refused(folder(), "gpt2", {"layers.0.attention.query.bias", "--set"}, {"model.biases=false"});
  expect_refused(folder(), "gpt2", {"layers.0.state.mix: our model has this parameter"},
                 {"model.state.heads=1"});
  expect_refused(folder(), "gpt2", {"kv_heads = 3", "at most"}, {"model.attention.kv_heads=3"});
  expect_refused(folder(), "gpt2", {"--set model.widht=3", "did you mean"}, {"model.widht=3"});
  expect_refused(folder(), "gpt2", {"data.sequence_length = 65", "64"}, {"data.sequence_length=65"});
}

// ---- files ----

TEST_F(ImportRefusals, FoldersWithoutAModel) {
  expect_refused(scratch / "none", "llama", {"none: is not a folder", "save_pretrained"});
  expect_refused(folder(), "llama", {"config.json"});
  write(llama, {});
  write_file_atomically(folder() / "config.json", "[1]");
  expect_refused(folder(), "llama", {"config.json: is not a JSON object"});
  write_file_atomically(folder() / "config.json", "{\"model_type\": ");
  expect_refused(folder(), "llama", {"config.json"});
  write(llama, {});
  std::filesystem::remove(folder() / "model.safetensors");
  expect_refused(folder(), "llama", {"neither model.safetensors nor", "save_pretrained"});
  expect_refused(folder(), "onnx", {"onnx", "gpt2, llama, rwkv, safetensors"});
}

TEST_F(ImportRefusals, TensorsThatAreMissingUnknownOrOfAnotherShape) {
  const Tensors good = tensors_of("gpt2", "tiny-gpt2.yaml");
  const std::string name = "transformer.h.1.attn.c_attn.weight";
  const auto expect = [&](const std::function<void(Tensors&)>& change,
                          const std::vector<std::string>& parts) {
    Tensors tensors = good;
    change(tensors);
    write(gpt2, tensors);
    expect_refused(folder(), "gpt2", parts);
  };
  expect([&](Tensors& t) { t.erase(name); }, {name + ": is missing; [64, 192] is wanted"});
  expect([&](Tensors& t) { t[name] = t[name].t(); },
         {name + ": is Float [192, 64]; floating-point [64, 192] is wanted"});
  expect([&](Tensors& t) { t[name] = t[name].to(at::kLong); },
         {name + ": is Long [64, 192]; floating-point"});
  expect([&](Tensors& t) { t["lora"] = at::ones({2}); }, {"lora: Float [2] is unknown"});
  expect([&](Tensors& t) { t["lm_head.weight"] = t["transformer.wte.weight"].mul(2); },
         {"lm_head.weight: has other values", "tie_word_embeddings"});
  expect(
      [&](Tensors& t) {
        std::erase_if(t, [](const auto& entry) { return entry.first.find(".0.") != entry.first.npos; });
      },
      {"transformer.h.0.ln_1.weight: is missing", "and 7 more"});
  write(gpt2, good);
  std::filesystem::resize_file(folder() / "model.safetensors",
                               std::filesystem::file_size(folder() / "model.safetensors") - 10);
  expect_refused(folder(), "gpt2", {"model.safetensors", "cut"});
}

TEST_F(ImportRefusals, ShardsThatDoNotFitTheirIndex) {
  const Tensors all = tensors_of("llama", "tiny-transformer.yaml");
  const std::string name = "lm_head.weight";
  Tensors first = all, second{{name, all.at(name)}};
  first.erase(name);
  write(llama, {});
  std::filesystem::remove(folder() / "model.safetensors");
  write_safetensors(folder() / "a.safetensors", listed(first));
  write_safetensors(folder() / "b.safetensors", listed(second));
  Json good = Json::object();
  for (const auto& [tensor, value] : all) good[tensor] = tensor == name ? "b.safetensors" : "a.safetensors";
  const auto write_index = [&](const Json& map) {
    write_file_atomically(folder() / "model.safetensors.index.json", Json{{"weight_map", map}}.dump());
  };
  const auto expect = [&](const Json& file, const std::vector<std::string>& parts) {
    Json map = good;
    map[name] = file;
    write_index(map);
    expect_refused(folder(), "llama", parts);
  };
  write_index(good);
  import_model({folder(), "llama", {}, ""});
  expect("../source/b.safetensors", {"index.json: weight_map: lm_head.weight", "not the name of a file"});
  expect(3, {"weight_map: lm_head.weight: 3 is not the name"});
  expect("a.safetensors", {"a.safetensors: has no tensor lm_head.weight"});
  expect("gone.safetensors", {"gone.safetensors"});
  good.erase(name);
  write_index(good);
  expect_refused(folder(), "llama", {"lm_head.weight: is missing"});
  write_index(nullptr);
  expect_refused(folder(), "llama", {"weight_map: is missing"});
}

TEST_F(ImportRefusals, FilesThatAreNoRwkv7) {
  const Tensors good = tensors_of("rwkv", "tiny-rwkv7.yaml");
  const std::filesystem::path file = scratch / "model.pth";
  const auto expect = [&](const std::function<void(Tensors&)>& change, const std::vector<std::string>& parts,
                          const std::vector<std::string>& overrides = {}) {
    Tensors tensors = good;
    change(tensors);
    write_pth(file, listed(tensors));
    expect_refused(file, "rwkv", parts, overrides);
  };
  const std::string r_k = "blocks.0.att.r_k";
  expect([&](Tensors& t) { t.erase(r_k); }, {"model.pth: has no tensor blocks.0.att.r_k", "RWKV-7 (x070)"});
  expect([&](Tensors& t) { t[r_k] = at::ones({1, 128}); }, {r_k, "heads of 128", "64"});
  expect([&](Tensors& t) { t[r_k] = at::ones({1, 3}); }, {r_k, "size 1 of Float [1, 3]", "64, 128"});
  expect([&](Tensors& t) { t[r_k] = at::ones({3, 64}); }, {"blocks.0.att.receptance.weight: is Float"});
  expect([&](Tensors& t) { t[r_k] = at::ones({64}); }, {r_k, "more dimensions"});
  expect([&](Tensors& t) { t["blocks.1.att.x_w"] = at::ones({64}); },
         {"blocks.1.att.x_w: is Float [64]; floating-point [1, 1, 64] is wanted"});
  expect([&](Tensors& t) { t["blocks.5.ln1.weight"] = at::ones({64}); },
         {"blocks.5.ln1.weight: Float [64] is unknown"});
  expect([&](Tensors& t) { t["blocks.1.ffn.s_emb.weight"] = at::ones({2}); },
         {"blocks.1.ffn.s_emb.weight: Float [2] is unknown"});
  expect(
      [&](Tensors& t) {
        std::erase_if(t, [](const auto& entry) { return entry.first.ends_with("ln1.weight"); });
      },
      {"0 layers", "at least 1"});
  expect([&](Tensors& t) { t["head.weight"] = t["head.weight"].mul(2); }, {"head.weight: has other values"},
         {"model.tied_head=true"});
}

TEST_F(ImportRefusals, SafetensorsThatWeDidNotExport) {
  write(llama, tensors_of("llama", "tiny-transformer.yaml"));
  const std::filesystem::path file = folder() / "model.safetensors";
  expect_refused(file, "safetensors", {"model.safetensors: holds no configuration", "--format llama"});
  expect_refused(file, "rwkv", {"has no tensor emb.weight"});
  write_safetensors(file, {}, {{"config", "model:\n  width: wide\n"}});
  expect_refused(file, "safetensors", {"model.safetensors", "width = wide"});
  write_safetensors(file, {}, {{"config", "model:\n  width: 64\n"}});
  expect_refused(file, "safetensors", {"embedding.weight: is missing; [257, 64] is wanted", "more"});
  write_safetensors(file, {}, {{"config", "model:\n  width: 64\n"}, {"tokenizer", "{}"}});
  expect_refused(file, "safetensors", {"model.safetensors: is not a tokenizer"});
}

}  // namespace
}  // namespace wuneng::tests
