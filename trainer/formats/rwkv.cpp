// RWKV-7 as its authors define and store it: a .pth file for RWKV-LM and the rwkv package, or the same
// tensors in a .safetensors file.
#include "common/check.h"
#include "trainer/formats/format.h"
#include "trainer/formats/pth.h"

namespace wuneng::trainer {
namespace {

// Heads of 64: the official code scales the epsilon of the heads' norm for these alone.
const std::vector<FixedSetting> settings{{"model.attention.heads", {"0"}},
                                         {"model.state.head_size", {"64"}},
                                         {"model.state.kv", {"own"}},
                                         {"model.state.value", {"input"}},
                                         {"model.state.read", {"single"}},
                                         {"model.state.boundary_states", {"0"}},
                                         {"model.state.negative_eigenvalues", {"false"}},
                                         {"model.state.value_residual", {"true"}},
                                         {"model.ffn.kind", {"rwkv"}},
                                         {"model.norm", {"layer"}},
                                         {"model.norm_eps", {"1.0e-05"}},
                                         {"model.embedding_norm", {"true"}},
                                         {"model.learned_positions", {"0"}}};

constexpr const char* mixes[] = {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"};  // the rows of state.mix

constexpr std::pair<const char*, const char*> same[] = {{"ln1.weight", "mixer_norm.weight"},
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

constexpr std::pair<const char*, const char*> vectors[] = {{"att.w0", "state.decay.bias"},  // [1, 1, C] there
                                                           {"att.a0", "state.rate.bias"},
                                                           {"att.k_k", "state.removal"},
                                                           {"att.k_a", "state.replacement"},
                                                           {"ffn.x_k", "ffn.mix"}};

void pair_layer(std::int64_t l, TensorPairs& pairs) {
  const auto ours = [&](const std::string& name) { return pairs.ours(fmt::format("layers.{}.{}", l, name)); };
  const auto add = [&](const std::string& name, const at::Tensor& view) {
    pairs.add(fmt::format("blocks.{}.{}", l, name), view);
  };
  const auto vector = [](const at::Tensor& tensor) { return tensor.view({1, 1, -1}); };
  for (const auto& [theirs, name] : same) add(theirs, ours(name));
  for (const auto& [theirs, name] : vectors) add(theirs, vector(ours(name)));
  for (int i = 0; i < 6; ++i) add(fmt::format("att.{}", mixes[i]), vector(ours("state.mix")[i]));
  add("att.ln_x.weight", ours("state.norm.weight").view({-1}));
  add("att.ln_x.bias", ours("state.norm.bias").view({-1}));
  if (l == 0) {  // no value residual; some official files have its tensors, unused
    for (const char* unused : {"att.v0", "att.v1", "att.v2"})
      pairs.ignore(fmt::format("blocks.0.{}", unused));
    return;
  }
  add("att.v0", vector(ours("state.value_residual.bias")));
  add("att.v1", ours("state.value_residual.down"));
  add("att.v2", ours("state.value_residual.up"));
}

void pair(const model::ModelConfig& config, TensorPairs& pairs) {
  const std::pair<const char*, const char*> whole[] = {
      {"emb.weight", "embedding.weight"},
      {"blocks.0.ln0.weight", "embedding_norm.weight"},
      {"blocks.0.ln0.bias", "embedding_norm.bias"},
      {"ln_out.weight", "final_norm.weight"},
      {"ln_out.bias", "final_norm.bias"},
      {"head.weight", config.tied_head ? "embedding.weight" : "head.weight"}};
  for (const auto& [theirs, ours] : whole) pairs.add(theirs, pairs.ours(ours));
  for (std::int64_t l = 0; l < config.layers; ++l) pair_layer(l, pairs);
}

void check_held(const Config& config) {
  const model::ModelConfig& m = config.model;
  require_settings(config, "rwkv", settings);
  require_held(m.state.heads * m.state.head_size == m.width, "rwkv",
               "models whose state heads have the model's width together",
               fmt::format("model.state.heads = {} of {} in model.width = {}", m.state.heads,
                           m.state.head_size, m.width));
}

void write(const SavedModel&, const NamedTensors& theirs, const std::filesystem::path& out) {
  write_pth(out, theirs);
}

// The number of layers that the names speak of.
std::int64_t count_layers(const StoredTensors& tensors) {
  std::int64_t layers = 0;
  while (tensors.contains(fmt::format("blocks.{}.ln1.weight", layers))) ++layers;
  return layers;
}

// The shape of the model, which the file tells by those of its tensors alone.
void read_shape(const StoredTensors& tensors, const std::string& place, Config& config) {
  const auto set = [&](const char* key, const std::string& name, std::size_t dimension) {
    const auto found = tensors.find(name);
    WN_REQUIRE(found != tensors.end(),
               "{}: has no tensor {}; give a model of RWKV-7 (x070) with the official names", place, name);
    WN_REQUIRE(found->second.shape.size() > dimension, "{}: {}: is {}; [..] of more dimensions is wanted",
               place, name, describe(found->second));
    const std::string size = fmt::format("{}", found->second.shape[dimension]);
    set_key(config, key, size,
            fmt::format("{}: {}: size {} of {}", place, name, dimension, describe(found->second)));
  };
  const std::int64_t layers = count_layers(tensors);
  set("model.vocab_size", "emb.weight", 0);
  set("model.width", "emb.weight", 1);
  set("model.state.heads", "blocks.0.att.r_k", 0);
  set("model.state.head_size", "blocks.0.att.r_k", 1);
  set("model.state.decay_rank", "blocks.0.att.w1", 1);
  set("model.state.rate_rank", "blocks.0.att.a1", 1);
  set("model.state.gate_rank", "blocks.0.att.g1", 1);
  if (layers > 1) set("model.state.value_rank", "blocks.1.att.v1", 1);
  set("model.ffn.hidden", "blocks.0.ffn.key.weight", 0);
  set_key(config, "model.layers", fmt::format("{}", layers), fmt::format("{}: {} layers", place, layers));
}

OutsideModel read(const std::filesystem::path& file) {
  OutsideModel outside;
  const std::string place = file.string();
  outside.tensors = file.extension() == ".safetensors"
                        ? stored_tensors(std::make_shared<const SafetensorsFile>(file))
                        : read_pth(file);
  apply_settings(outside.config, settings);
  read_shape(outside.tensors, place, outside.config);
  const model::StateConfig& state = outside.config.model.state;
  WN_REQUIRE(state.head_size == 64, "{}: blocks.0.att.r_k: heads of {}; RWKV-7 has heads of 64", place,
             state.head_size);
  return outside;
}

}  // namespace

Format rwkv_format() {
  return {"rwkv", "plain RWKV-7, a .pth file for RWKV-LM and the rwkv package", check_held, pair, write,
          read};
}

}  // namespace wuneng::trainer
