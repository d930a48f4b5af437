#include "trainer/export.h"

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/cat.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/pickler.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"

namespace wuneng::trainer {
namespace {

using Tensors = std::map<std::string, at::Tensor>;

Tensors tensors_of(const SavedModel& saved) {
  Tensors tensors;
  for (const parallel::Parameter& parameter : saved.model.parameters())
    tensors[parameter.name] = parameter.value.detach();
  return tensors;
}

// Refuses a model that the format cannot hold: `limit` says what the format holds, `value` what the model
// has.
void require(bool holds, const char* format, const char* limit, const std::string& value) {
  WN_REQUIRE(
      holds,
      "--format {}: holds {}, but this model has {}; use --format safetensors, which holds every model",
      format, limit, value);
}

void export_safetensors(const SavedModel& saved, const std::filesystem::path& out) {
  NamedTensors tensors;
  for (const parallel::Parameter& parameter : saved.model.parameters())
    tensors.emplace_back(parameter.name, parameter.value.detach());
  write_safetensors(out, tensors, {{"format", "pt"}, {"config", to_yaml(saved.config)}});
}

// The names of transformers' LlamaForCausalLM.
NamedTensors llama_tensors(const SavedModel& saved) {
  const Tensors ours = tensors_of(saved);
  NamedTensors theirs{{"model.embed_tokens.weight", ours.at("embedding.weight")},
                      {"model.norm.weight", ours.at("final_norm.weight")}};
  if (!saved.config.model.tied_head) theirs.emplace_back("lm_head.weight", ours.at("head.weight"));
  const std::pair<const char*, const char*> names[] = {
      {"self_attn.q_proj.weight", "attention.query.weight"},
      {"self_attn.k_proj.weight", "attention.key.weight"},
      {"self_attn.v_proj.weight", "attention.value.weight"},
      {"self_attn.o_proj.weight", "output.attention.weight"},
      {"mlp.gate_proj.weight", "ffn.gate.weight"},
      {"mlp.up_proj.weight", "ffn.up.weight"},
      {"mlp.down_proj.weight", "ffn.down.weight"},
      {"input_layernorm.weight", "mixer_norm.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"}};
  for (std::int64_t l = 0; l < saved.config.model.layers; ++l)
    for (const auto& [their, our] : names)
      theirs.emplace_back(fmt::format("model.layers.{}.{}", l, their),
                          ours.at(fmt::format("layers.{}.{}", l, our)));
  return theirs;
}

Json llama_config(const SavedModel& saved) {
  const model::ModelConfig& m = saved.config.model;
  const std::int64_t end = saved.tokenizer ? saved.tokenizer->end_of_document() : -1;
  Json config{{"architectures", {"LlamaForCausalLM"}},
              {"model_type", "llama"},
              {"hidden_size", m.width},
              {"num_hidden_layers", m.layers},
              {"num_attention_heads", m.attention.heads},
              {"num_key_value_heads", m.attention.resolved_kv_heads()},
              {"head_dim", m.attention.head_size},
              {"intermediate_size", m.feed_forward.resolved_hidden(m.width)},
              {"vocab_size", m.vocab_size},
              {"max_position_embeddings", saved.config.data.sequence_length},
              {"rms_norm_eps", m.norm_eps},
              {"rope_theta", m.attention.rope_base},
              {"hidden_act", "silu"},
              {"attention_bias", false},
              {"mlp_bias", false},
              {"tie_word_embeddings", m.tied_head},
              {"bos_token_id", nullptr},
              {"eos_token_id", nullptr},
              {"torch_dtype", "float32"}};
  if (end >= 0) config["eos_token_id"] = end;
  return config;
}

void export_llama(const SavedModel& saved, const std::filesystem::path& out) {
  const model::ModelConfig& m = saved.config.model;
  const char* limit = "attention heads, RMSNorm and SwiGLU alone";
  require(m.state.heads == 0, "llama", limit, fmt::format("model.state.heads = {}", m.state.heads));
  require(m.norm == model::NormKind::rms, "llama", limit, "model.norm = layer");
  require(m.feed_forward.kind == model::FeedForwardKind::swiglu, "llama", limit,
          "a model.ffn.kind other than swiglu");
  require(!m.embedding_norm, "llama", limit, "model.embedding_norm = true");
  require(!m.biases, "llama", limit, "model.biases = true");
  require(m.learned_positions == 0, "llama", limit,
          fmt::format("model.learned_positions = {}", m.learned_positions));
  const model::AttentionConfig& a = m.attention;
  require(a.positions == model::Positions::rope && a.rope_scaling == model::RopeScaling::none, "llama", limit,
          "other positions than plain rotary ones");
  require(!a.qk_norm, "llama", limit, "model.attention.qk_norm = true");
  require(a.window == 0, "llama", limit, fmt::format("model.attention.window = {}", a.window));
  require(a.softcap == 0.0, "llama", limit, fmt::format("model.attention.softcap = {}", a.softcap));
  make_folder(out);
  write_safetensors(out / "model.safetensors", llama_tensors(saved), {{"format", "pt"}});
  write_file_atomically(out / "config.json", llama_config(saved).dump(2) + "\n");
}

// The names and shapes of transformers' GPT2LMHeadModel, whose matrices are [in, out]; queries, keys and
// values are one.
NamedTensors gpt2_tensors(const SavedModel& saved) {
  const Tensors ours = tensors_of(saved);
  NamedTensors theirs{{"transformer.wte.weight", ours.at("embedding.weight")},
                      {"transformer.wpe.weight", ours.at("positions")},
                      {"transformer.ln_f.weight", ours.at("final_norm.weight")},
                      {"transformer.ln_f.bias", ours.at("final_norm.bias")}};
  for (std::int64_t l = 0; l < saved.config.model.layers; ++l) {
    const auto our = [&](const char* name) { return ours.at(fmt::format("layers.{}.{}", l, name)); };
    const auto add = [&](const char* name, const at::Tensor& value) {
      theirs.emplace_back(fmt::format("transformer.h.{}.{}", l, name), value.contiguous());
    };
    add("ln_1.weight", our("mixer_norm.weight"));
    add("ln_1.bias", our("mixer_norm.bias"));
    add("attn.c_attn.weight",
        at::cat({our("attention.query.weight"), our("attention.key.weight"), our("attention.value.weight")})
            .t());
    add("attn.c_attn.bias",
        at::cat({our("attention.query.bias"), our("attention.key.bias"), our("attention.value.bias")}));
    add("attn.c_proj.weight", our("output.attention.weight").t());
    add("attn.c_proj.bias", our("output.bias"));
    add("ln_2.weight", our("ffn_norm.weight"));
    add("ln_2.bias", our("ffn_norm.bias"));
    add("mlp.c_fc.weight", our("ffn.up.weight").t());
    add("mlp.c_fc.bias", our("ffn.up.bias"));
    add("mlp.c_proj.weight", our("ffn.down.weight").t());
    add("mlp.c_proj.bias", our("ffn.down.bias"));
  }
  return theirs;
}

Json gpt2_config(const SavedModel& saved) {
  const model::ModelConfig& m = saved.config.model;
  const std::int64_t end = saved.tokenizer ? saved.tokenizer->end_of_document() : -1;
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"n_embd", m.width},
          {"n_layer", m.layers},
          {"n_head", m.attention.heads},
          {"n_inner", m.feed_forward.resolved_hidden(m.width)},
          {"n_positions", m.learned_positions},
          {"vocab_size", m.vocab_size},
          {"layer_norm_epsilon", m.norm_eps},
          {"activation_function", "gelu_new"},
          {"tie_word_embeddings", true},
          {"bos_token_id", nullptr},
          {"eos_token_id", end >= 0 ? Json(end) : Json(nullptr)},
          {"torch_dtype", "float32"}};
}

void export_gpt2(const SavedModel& saved, const std::filesystem::path& out) {
  const model::ModelConfig& m = saved.config.model;
  const model::AttentionConfig& a = m.attention;
  const char* limit = "GPT-2's own layers alone (configs/models/*gpt2.yaml)";
  require(m.state.heads == 0, "gpt2", limit, fmt::format("model.state.heads = {}", m.state.heads));
  require(a.heads * a.head_size == m.width, "gpt2", limit,
          fmt::format("{} heads of {} in a width of {}", a.heads, a.head_size, m.width));
  require(a.resolved_kv_heads() == a.heads, "gpt2", limit,
          fmt::format("model.attention.kv_heads = {}", a.resolved_kv_heads()));
  require(m.norm == model::NormKind::layer, "gpt2", limit, "model.norm = rms");
  require(m.feed_forward.kind == model::FeedForwardKind::gelu, "gpt2", limit,
          "a model.ffn.kind other than gelu");
  require(m.biases, "gpt2", limit, "model.biases = false");
  require(m.tied_head, "gpt2", limit, "model.tied_head = false");
  require(!m.embedding_norm, "gpt2", limit, "model.embedding_norm = true");
  require(m.learned_positions > 0 && a.positions == model::Positions::none, "gpt2", limit,
          "other positions than learned ones");
  require(!a.qk_norm && a.window == 0 && a.softcap == 0.0, "gpt2", limit,
          "model.attention.qk_norm, window or softcap");
  make_folder(out);
  write_safetensors(out / "model.safetensors", gpt2_tensors(saved), {{"format", "pt"}});
  write_file_atomically(out / "config.json", gpt2_config(saved).dump(2) + "\n");
}

// The names and shapes of the official RWKV-7 checkpoints.
NamedTensors rwkv_tensors(const SavedModel& saved) {
  const Tensors ours = tensors_of(saved);
  NamedTensors theirs{
      {"emb.weight", ours.at("embedding.weight")},
      {"blocks.0.ln0.weight", ours.at("embedding_norm.weight")},
      {"blocks.0.ln0.bias", ours.at("embedding_norm.bias")},
      {"ln_out.weight", ours.at("final_norm.weight")},
      {"ln_out.bias", ours.at("final_norm.bias")},
      {"head.weight", ours.at(saved.config.model.tied_head ? "embedding.weight" : "head.weight")}};
  const std::pair<const char*, const char*> same[] = {{"ln1.weight", "mixer_norm.weight"},
                                                      {"ln1.bias", "mixer_norm.bias"},
                                                      {"ln2.weight", "ffn_norm.weight"},
                                                      {"ln2.bias", "ffn_norm.bias"},
                                                      {"att.w1", "state.decay.down"},
                                                      {"att.w2", "state.decay.up"},
                                                      {"att.a1", "state.rate.down"},
                                                      {"att.a2", "state.rate.up"},
                                                      {"att.g1", "state.gate.down"},
                                                      {"att.g2", "state.gate.up"},
                                                      {"att.r_k", "state.bonus"},
                                                      {"att.receptance.weight", "state.receptance.weight"},
                                                      {"att.key.weight", "state.key.weight"},
                                                      {"att.value.weight", "state.value.weight"},
                                                      {"att.output.weight", "output.state.weight"},
                                                      {"ffn.key.weight", "ffn.key.weight"},
                                                      {"ffn.value.weight", "ffn.value.weight"}};
  const std::pair<const char*, const char*> vectors[] = {// [1, 1, C] there
                                                         {"att.w0", "state.decay.bias"},
                                                         {"att.a0", "state.rate.bias"},
                                                         {"att.k_k", "state.removal"},
                                                         {"att.k_a", "state.replacement"},
                                                         {"ffn.x_k", "ffn.mix"}};
  const char* mixes[] = {"att.x_r", "att.x_w", "att.x_k", "att.x_v", "att.x_a", "att.x_g"};
  for (std::int64_t l = 0; l < saved.config.model.layers; ++l) {
    const auto our = [&](const std::string& name) { return ours.at(fmt::format("layers.{}.{}", l, name)); };
    const auto add = [&](const std::string& name, const at::Tensor& tensor) {
      theirs.emplace_back(fmt::format("blocks.{}.{}", l, name), tensor);
    };
    for (const auto& [their, name] : same) add(their, our(name));
    for (const auto& [their, name] : vectors) add(their, our(name).reshape({1, 1, -1}));
    for (int i = 0; i < 6; ++i) add(mixes[i], our("state.mix")[i].reshape({1, 1, -1}));
    add("att.ln_x.weight", our("state.norm.weight").flatten());
    add("att.ln_x.bias", our("state.norm.bias").flatten());
    if (l == 0) continue;  // the first layer has no value residual
    add("att.v0", our("state.value_residual.bias").reshape({1, 1, -1}));
    add("att.v1", our("state.value_residual.down"));
    add("att.v2", our("state.value_residual.up"));
  }
  return theirs;
}

// What torch.save() writes for {name: tensor}: a zip of the pickled dictionary, without the type tags of
// TorchScript that torch.load() refuses by default, and the bytes of each tensor.
void write_pth(const NamedTensors& tensors, const std::filesystem::path& out) {
  c10::Dict<std::string, at::Tensor> dictionary;
  // Clones own their storage: the format stores whole storages, of which a view would be an unknown part.
  for (const auto& [name, tensor] : tensors)
    dictionary.insert(name, tensor.clone(at::MemoryFormat::Contiguous));
  std::string pickled;
  torch::jit::Pickler pickler([&](const char* bytes, std::size_t count) { pickled.append(bytes, count); },
                              nullptr, nullptr, nullptr, nullptr, /*tag_aggregates=*/false);
  pickler.protocol();
  pickler.pushIValue(dictionary);
  pickler.stop();
  OutputFile file(out);
  caffe2::serialize::PyTorchStreamWriter zip([&](const void* bytes, std::size_t count) {
    file.write(bytes, count);
    return count;
  });
  zip.writeRecord("data.pkl", pickled.data(), pickled.size());
  zip.writeRecord("byteorder", "little", 6);
  const std::vector<at::Tensor>& data = pickler.tensorData();
  for (std::size_t i = 0; i < data.size(); ++i)
    zip.writeRecord(fmt::format("data/{}", i), data[i].const_data_ptr(), data[i].nbytes());
  zip.writeEndOfFile();
  file.sync_and_close();
}

void export_rwkv(const SavedModel& saved, const std::filesystem::path& out) {
  const model::ModelConfig& m = saved.config.model;
  const char* limit = "RWKV-7 as its authors define it";
  require(m.attention.heads == 0, "rwkv", limit,
          fmt::format("model.attention.heads = {}", m.attention.heads));
  require(m.state.heads * m.state.head_size == m.width, "rwkv", limit,
          fmt::format("{} state heads of {} in a width of {}", m.state.heads, m.state.head_size, m.width));
  require(m.feed_forward.kind == model::FeedForwardKind::rwkv, "rwkv", limit,
          "a model.ffn.kind other than rwkv");
  require(m.norm == model::NormKind::layer, "rwkv", limit, "model.norm = rms");
  require(m.norm_eps == 1e-5, "rwkv", limit, fmt::format("model.norm_eps = {}", m.norm_eps));
  require(m.embedding_norm, "rwkv", limit, "model.embedding_norm = false");
  require(m.state.read == model::StateRead::single, "rwkv", limit, "model.state.read = double");
  require(m.state.value_residual, "rwkv", limit, "model.state.value_residual = false");
  require(m.learned_positions == 0, "rwkv", limit,
          fmt::format("model.learned_positions = {}", m.learned_positions));
  write_pth(rwkv_tensors(saved), out);
}

}  // namespace

void export_model(const SavedModel& saved, const std::string& format, const std::filesystem::path& out) {
  const std::map<std::string, std::function<void(const SavedModel&, const std::filesystem::path&)>> formats{
      {"safetensors", export_safetensors},
      {"llama", export_llama},
      {"gpt2", export_gpt2},
      {"rwkv", export_rwkv}};
  const auto found = formats.find(format);
  WN_REQUIRE(found != formats.end(), "--format {}: is not known; one of: gpt2, llama, rwkv, safetensors",
             format);
  found->second(saved, out);
}

}  // namespace wuneng::trainer
