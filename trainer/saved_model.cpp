#include "trainer/saved_model.h"

#include <nlohmann/json.hpp>

#include "common/check.h"
#include "trainer/checkpoint/folder.h"
#include "trainer/checkpoint/sharding.h"
#include "trainer/run_folder.h"

namespace wuneng::trainer {
namespace {

const model::ModelConfig& split_over(const model::ModelConfig& config, parallel::Communicator& tensor_group) {
  model::check_split(config, tensor_group.size());
  return config;
}

}  // namespace

std::filesystem::path resolve_checkpoint(const std::filesystem::path& path) {
  WN_REQUIRE(std::filesystem::is_directory(path),
             "{}: there is no such folder; give a run folder or one of its checkpoints", path.string());
  const RunFolder run(path);
  if (!std::filesystem::exists(run.config())) return path;
  const auto newest = newest_checkpoint(run.checkpoints());
  WN_REQUIRE(newest.has_value(), "{}: this run has no checkpoint yet", path.string());
  return *newest;
}

SavedModel::SavedModel(const std::filesystem::path& path, parallel::Communicator& tensor_group,
                       at::Device device)
    : SavedModel(Checkpoint(resolve_checkpoint(path)), tensor_group, device) {}

SavedModel::SavedModel(const Checkpoint& checkpoint, parallel::Communicator& tensor_group, at::Device device)
    : folder(checkpoint.folder()),
      position(checkpoint.info().position),
      config(parse_config(checkpoint.info().config, (checkpoint.folder() / "manifest.json").string())),
      model(split_over(config.model, tensor_group), tensor_group, static_cast<std::uint64_t>(config.seed),
            {.device = device}) {
  const std::string& text = checkpoint.info().tokenizer;
  const std::string place = (checkpoint.folder() / "tokenizer.json").string();
  if (!text.empty()) tokenizer = data::tokenizer_from_json(parse_json(text, place), place);
  checkpoint.load(wanted_parameters(model.parameters()));
}

const data::Tokenizer& SavedModel::require_tokenizer() const {
  WN_REQUIRE(tokenizer != nullptr,
             "{}: this checkpoint has no tokenizer, so text cannot become tokens: its training corpus had no "
             "PREFIX.tokenizer.json, or it was imported without one; tokenise with wuneng tokenize before "
             "training, or import with --tokenizer",
             folder.string());
  return *tokenizer;
}

}  // namespace wuneng::trainer
