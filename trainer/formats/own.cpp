// Our own names in one safetensors file, with the configuration beside them: every model.
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "trainer/formats/format.h"

namespace wuneng::trainer {
namespace {

constexpr const char* config_key = "config";
constexpr const char* tokenizer_key = "tokenizer";

void pair(const model::ModelConfig&, TensorPairs& pairs) {
  for (const auto& [name, tensor] : pairs.all_of_ours()) pairs.add(name, pairs.ours(name));
}

void check_held(const Config&) {}

void write(const SavedModel& saved, const NamedTensors& theirs, const std::filesystem::path& out) {
  std::map<std::string, std::string> metadata{{"format", "pt"}, {config_key, to_yaml(saved.config)}};
  if (saved.tokenizer) metadata[tokenizer_key] = saved.tokenizer->to_json().dump();
  write_safetensors(out, theirs, metadata);
}

OutsideModel read(const std::filesystem::path& path) {
  const auto file = std::make_shared<const SafetensorsFile>(path);
  const auto& metadata = file->metadata();
  WN_REQUIRE(
      metadata.contains(config_key),
      "{}: holds no configuration in its metadata: wuneng export did not write it; for models of other "
      "programs choose --format llama, gpt2 or rwkv",
      path.string());
  OutsideModel outside;
  outside.config = parse_config(metadata.at(config_key), fmt::format("{}: configuration", path.string()));
  outside.config.data.train.clear();  // the corpora of another place, which a new run must name anew
  outside.config.data.validation.clear();
  if (metadata.contains(tokenizer_key)) outside.tokenizer = metadata.at(tokenizer_key);
  outside.tensors = stored_tensors(file);
  return outside;
}

}  // namespace

Format safetensors_format() {
  return {"safetensors", "any model, our own names", check_held, pair, write, read};
}

}  // namespace wuneng::trainer
