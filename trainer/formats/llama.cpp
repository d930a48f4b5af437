// transformers' LlamaForCausalLM: plain Transformers of RMSNorm, rotary positions and SwiGLU.
#include "common/check.h"
#include "trainer/formats/format.h"
#include "trainer/formats/transformers.h"

namespace wuneng::trainer {
namespace {

const std::vector<FixedSetting> settings{{"model.state.heads", {"0"}},
                                         {"model.norm", {"rms"}},
                                         {"model.ffn.kind", {"swiglu"}},
                                         {"model.embedding_norm", {"false"}},
                                         {"model.learned_positions", {"0"}},
                                         {"model.attention.positions", {"rope"}},
                                         {"model.attention.rope_scaling", {"none", "linear"}},
                                         {"model.attention.qk_norm", {"false"}},
                                         {"model.attention.window", {"0"}},
                                         {"model.attention.softcap", {"0.0"}}};

const std::vector<FixedField> fixed{{"model_type", {"llama"}}, {"hidden_act", {"silu", "swish"}}};

const std::vector<SharedField> shared{{"hidden_size", "model.width", nullptr},
                                      {"num_hidden_layers", "model.layers", nullptr},
                                      {"num_attention_heads", "model.attention.heads", nullptr},
                                      {"num_key_value_heads", "model.attention.kv_heads", "auto"},
                                      {"intermediate_size", "model.ffn.hidden", nullptr},
                                      {"vocab_size", "model.vocab_size", nullptr},
                                      {"max_position_embeddings", "data.sequence_length", "2048"},
                                      {"rms_norm_eps", "model.norm_eps", "1e-6"},
                                      {"attention_bias", "model.biases", "false"},
                                      {"tie_word_embeddings", "model.tied_head", "false"}};

void pair(const model::ModelConfig& config, TensorPairs& pairs) {
  const auto same = [&](const std::string& theirs, const std::string& ours) {
    pairs.add(theirs, pairs.ours(ours));
  };
  same("model.embed_tokens.weight", "embedding.weight");
  same("model.norm.weight", "final_norm.weight");
  if (config.tied_head)
    pairs.add_repeated("lm_head.weight", pairs.ours("embedding.weight"));
  else
    same("lm_head.weight", "head.weight");
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const std::string their_layer = fmt::format("model.layers.{}.", l),
                      our_layer = fmt::format("layers.{}.", l);
    for (const auto& [theirs, ours] : {std::pair{"self_attn.q_proj", "attention.query"},
                                       {"self_attn.k_proj", "attention.key"},
                                       {"self_attn.v_proj", "attention.value"},
                                       {"mlp.gate_proj", "ffn.gate"},
                                       {"mlp.up_proj", "ffn.up"},
                                       {"mlp.down_proj", "ffn.down"}}) {
      same(their_layer + theirs + ".weight", our_layer + ours + ".weight");
      if (config.biases) same(their_layer + theirs + ".bias", our_layer + ours + ".bias");
    }
    same(their_layer + "self_attn.o_proj.weight", our_layer + "output.attention.weight");
    if (config.biases) same(their_layer + "self_attn.o_proj.bias", our_layer + "output.bias");
    same(their_layer + "input_layernorm.weight", our_layer + "mixer_norm.weight");
    same(their_layer + "post_attention_layernorm.weight", our_layer + "ffn_norm.weight");
    pairs.ignore(their_layer + "self_attn.rotary_emb.inv_freq");  // in files of old versions
  }
}

void check_held(const Config& config) { require_settings(config, "llama", settings); }

void write(const SavedModel& saved, const NamedTensors& theirs, const std::filesystem::path& out) {
  Config config = saved.config;
  model::AttentionConfig& attention = config.model.attention;
  attention.kv_heads = attention.resolved_kv_heads();
  config.model.feed_forward.hidden = config.model.feed_forward.resolved_hidden(config.model.width);
  Json json = shared_json(shared, config);
  json["architectures"] = {"LlamaForCausalLM"};
  json["head_dim"] = attention.head_size;
  json["mlp_bias"] = config.model.biases;
  json["rope_theta"] = attention.rope_base;
  if (attention.rope_scaling == model::RopeScaling::linear)
    json["rope_scaling"] = {{"rope_type", "linear"}, {"factor", attention.rope_factor}};
  write_transformers_folder(out, saved, theirs, json, fixed);
}

// transformers 4 writes "rope_theta" and "rope_scaling", transformers 5 both into "rope_parameters".
void read_positions(const Json& json, const std::string& place, Config& config) {
  const bool four = !field_of(json, "rope_scaling").is_null();
  const char* name = four ? "rope_scaling" : "rope_parameters";
  Json rope = field_of(json, name);
  if (rope.is_null()) rope = Json::object();
  WN_REQUIRE(rope.is_object(), "{}: {} = {}: must be an object or null", place, name, rope.dump());
  const auto set = [&](const char* key, const char* field, const Json& value) {
    set_key(config, key, value.dump(), fmt::format("{}: {} = {}", place, field, value.dump()));
  };
  Json theta = field_of(rope, "rope_theta");
  if (theta.is_null()) theta = field_of(json, "rope_theta");
  if (!theta.is_null()) set("model.attention.rope_base", "rope_theta", theta);
  Json type = field_of(rope, "rope_type");
  if (type.is_null()) type = field_of(rope, "type");
  require_fixed({{"rope_type", {"default", "linear"}}}, {{"rope_type", type}},
                fmt::format("{}: {}", place, name));
  require_fixed({{"partial_rotary_factor", {1.0}}}, rope, fmt::format("{}: {}", place, name));
  if (type != "linear") return;
  set_key(config, "model.attention.rope_scaling", "linear", place);
  set("model.attention.rope_factor", "factor", field_of(rope, "factor"));
}

OutsideModel read(const std::filesystem::path& folder) {
  OutsideModel outside;
  Config& config = outside.config;
  std::string place;
  const Json json = read_transformers_config(folder, place);
  require_fixed(fixed, json, place);
  apply_settings(config, settings);
  read_shared(shared, json, place, config);
  Json head_size = field_of(json, "head_dim");
  if (head_size.is_null() && config.model.attention.heads > 0)
    head_size = config.model.width / config.model.attention.heads;
  set_key(config, "model.attention.head_size", head_size.dump(),
          fmt::format("{}: head_dim = {}", place, head_size.dump()));
  const Json mlp_bias = field_of(json, "mlp_bias");
  WN_REQUIRE(
      (mlp_bias == true) == config.model.biases,
      "{}: mlp_bias = {}: must be {}, as attention_bias is, because model.biases stands for both; import a "
      "model that has both or none",
      place, mlp_bias.dump(), config.model.biases);
  read_positions(json, place, config);
  outside.tensors = read_transformers_tensors(folder);
  return outside;
}

}  // namespace

Format llama_format() {
  return {"llama", "plain Transformers, a folder for transformers' LlamaForCausalLM", check_held, pair, write,
          read};
}

}  // namespace wuneng::trainer
