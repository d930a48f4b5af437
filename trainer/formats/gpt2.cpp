// transformers' GPT2LMHeadModel.
#include "common/check.h"
#include "trainer/formats/format.h"
#include "trainer/formats/transformers.h"

namespace wuneng::trainer {
namespace {

const std::vector<FixedSetting> settings{
    {"model.state.heads", {"0"}},           {"model.norm", {"layer"}},
    {"model.ffn.kind", {"gelu"}},           {"model.biases", {"true"}},
    {"model.embedding_norm", {"false"}},    {"model.attention.positions", {"none"}},
    {"model.attention.qk_norm", {"false"}}, {"model.attention.window", {"0"}},
    {"model.attention.softcap", {"0.0"}}};

const std::vector<FixedField> fixed{{"model_type", {"gpt2"}},
                                    {"activation_function", {"gelu_new", "gelu_pytorch_tanh"}},
                                    {"scale_attn_weights", {true}},
                                    {"scale_attn_by_inverse_layer_idx", {false}},
                                    {"add_cross_attention", {false}}};

const std::vector<SharedField> shared{{"n_embd", "model.width", nullptr},
                                      {"n_layer", "model.layers", nullptr},
                                      {"n_head", "model.attention.heads", nullptr},
                                      {"n_inner", "model.ffn.hidden", "auto"},
                                      {"n_positions", "model.learned_positions", nullptr},
                                      {"vocab_size", "model.vocab_size", nullptr},
                                      {"layer_norm_epsilon", "model.norm_eps", "1e-5"},
                                      {"tie_word_embeddings", "model.tied_head", "true"}};

// Their matrices are [in, out]; queries, keys and values are one.
void pair(const model::ModelConfig& config, TensorPairs& pairs) {
  const auto same = [&](const std::string& theirs, const std::string& ours) {
    pairs.add(theirs, pairs.ours(ours));
  };
  same("transformer.wte.weight", "embedding.weight");
  same("transformer.wpe.weight", "positions");
  same("transformer.ln_f.weight", "final_norm.weight");
  same("transformer.ln_f.bias", "final_norm.bias");
  if (config.tied_head)
    pairs.add_repeated("lm_head.weight", pairs.ours("embedding.weight"));
  else
    same("lm_head.weight", "head.weight");
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const std::string theirs = fmt::format("transformer.h.{}.", l), layer = fmt::format("layers.{}.", l);
    const auto ours = [&](const char* name) { return pairs.ours(layer + name); };
    same(theirs + "ln_1.weight", layer + "mixer_norm.weight");
    same(theirs + "ln_1.bias", layer + "mixer_norm.bias");
    same(theirs + "ln_2.weight", layer + "ffn_norm.weight");
    same(theirs + "ln_2.bias", layer + "ffn_norm.bias");
    pairs.add(theirs + "attn.c_attn.weight",
              {ours("attention.query.weight").t(), ours("attention.key.weight").t(),
               ours("attention.value.weight").t()});
    pairs.add(theirs + "attn.c_attn.bias",
              {ours("attention.query.bias"), ours("attention.key.bias"), ours("attention.value.bias")});
    pairs.add(theirs + "attn.c_proj.weight", ours("output.attention.weight").t());
    same(theirs + "attn.c_proj.bias", layer + "output.bias");
    pairs.add(theirs + "mlp.c_fc.weight", ours("ffn.up.weight").t());
    same(theirs + "mlp.c_fc.bias", layer + "ffn.up.bias");
    pairs.add(theirs + "mlp.c_proj.weight", ours("ffn.down.weight").t());
    same(theirs + "mlp.c_proj.bias", layer + "ffn.down.bias");
    pairs.ignore(theirs + "attn.bias");  // the causal mask, in files of old versions
    pairs.ignore(theirs + "attn.masked_bias");
  }
}

void check_held(const Config& config) {
  const model::ModelConfig& m = config.model;
  const model::AttentionConfig& a = m.attention;
  require_settings(config, "gpt2", settings);
  require_held(m.learned_positions > 0, "gpt2", "models of learned positions alone",
               "model.learned_positions = 0");
  require_held(a.resolved_kv_heads() == a.heads, "gpt2",
               "models of one head of keys and values for each head",
               fmt::format("model.attention.kv_heads = {} for model.attention.heads = {}",
                           a.resolved_kv_heads(), a.heads));
  require_held(a.heads * a.head_size == m.width, "gpt2", "models whose heads have the model's width together",
               fmt::format("model.attention.heads = {} of model.attention.head_size = {} in model.width = {}",
                           a.heads, a.head_size, m.width));
}

void write(const SavedModel& saved, const NamedTensors& theirs, const std::filesystem::path& out) {
  Config config = saved.config;
  config.model.feed_forward.hidden = config.model.feed_forward.resolved_hidden(config.model.width);
  Json json = shared_json(shared, config);
  json["architectures"] = {"GPT2LMHeadModel"};
  write_transformers_folder(out, saved, theirs, json, fixed);
}

// Files of the bare GPT2Model, such as OpenAI's own, have names without "transformer.".
StoredTensors with_prefix(StoredTensors tensors) {
  if (!tensors.contains("wte.weight")) return tensors;
  StoredTensors renamed;
  for (auto& [name, tensor] : tensors)
    renamed[name == "lm_head.weight" ? name : "transformer." + name] = std::move(tensor);
  return renamed;
}

OutsideModel read(const std::filesystem::path& folder) {
  OutsideModel outside;
  Config& config = outside.config;
  std::string place;
  const Json json = read_transformers_config(folder, place);
  require_fixed(fixed, json, place);
  apply_settings(config, settings);
  read_shared(shared, json, place, config);
  const std::int64_t width = config.model.width, heads = config.model.attention.heads;
  WN_REQUIRE(heads > 0 && width % heads == 0, "{}: n_head = {}: must divide n_embd = {}", place, heads,
             width);
  const std::string head_size = fmt::format("{}", width / heads),
                    longest = fmt::format("{}", config.model.learned_positions);
  set_key(config, "model.attention.head_size", head_size,
          fmt::format("{}: n_embd / n_head = {}", place, head_size));
  set_key(config, "data.sequence_length", longest, fmt::format("{}: n_positions = {}", place, longest));
  outside.tensors = with_prefix(read_transformers_tensors(folder));
  return outside;
}

}  // namespace

Format gpt2_format() {
  return {"gpt2", "GPT-2's layers, a folder for transformers' GPT2LMHeadModel", check_held, pair, write,
          read};
}

}  // namespace wuneng::trainer
