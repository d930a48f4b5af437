#include "trainer/import.h"

#include <ATen/ops/empty.h>

#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"
#include "model/language_model.h"
#include "trainer/checkpoint/folder.h"
#include "trainer/checkpoint/sharding.h"
#include "trainer/config_file.h"
#include "trainer/config_value.h"
#include "trainer/formats/format.h"
#include "trainer/run_folder.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

NamedTensors named(const parallel::Parameters& parameters) {
  NamedTensors tensors;
  for (const parallel::Parameter& parameter : parameters)
    tensors.emplace_back(parameter.name, parameter.value.detach());
  return tensors;
}

// What the file says, then what the command line says.
Config configuration(Config config, const ImportSource& source) {
  for (const std::string& assignment : source.overrides) {
    const Setting setting = read_override(assignment);
    set_value(*setting.key, setting.value, config);
  }
  try {
    check(config);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", source.path.string(), error.what()));
  }
  return config;
}

std::string tokenizer_text(const std::string& stored, const ImportSource& source, const Config& config) {
  const std::string place = source.tokenizer.empty() ? source.path.string() : source.tokenizer;
  if (source.tokenizer.empty() && stored.empty()) return {};
  const auto tokenizer = source.tokenizer.empty()
                             ? data::tokenizer_from_json(parse_json(stored, place), place)
                             : data::make_tokenizer(source.tokenizer);
  WN_REQUIRE(
      tokenizer->vocab_size() <= config.model.vocab_size,
      "{}: the tokenizer has {} ids, but the model only {} (model.vocab_size); give the tokenizer that "
      "the model was trained with",
      place, tokenizer->vocab_size(), config.model.vocab_size);
  return tokenizer->to_json().dump();
}

// `output` without what a path may end with, so that a suffix makes a neighbour.
fs::path normal(const fs::path& output) {
  const fs::path whole = fs::absolute(output).lexically_normal();
  return whole.has_filename() ? whole : whole.parent_path();
}

}  // namespace

ImportedModel import_model(const ImportSource& source) {
  const Format& format = format_named(source.format);
  const std::string place = source.path.string();
  const OutsideModel outside = format.read(source.path);
  ImportedModel imported{configuration(outside.config, source), {}, {}};
  const Config& config = imported.config;
  imported.tokenizer = tokenizer_text(outside.tokenizer, source, config);
  imported.parameters = model::LanguageModel::parameter_shapes(config.model);
  TensorPairs shapes(named(imported.parameters));
  format.pair(config.model, shapes);
  shapes.check(outside.tensors, place);  // before the memory for them is taken
  for (parallel::Parameter& parameter : imported.parameters)
    parameter.value = at::empty(parameter.global_shape, at::kFloat);
  TensorPairs pairs(named(imported.parameters));
  format.pair(config.model, pairs);
  pairs.to_ours(outside.tensors, place);
  return imported;
}

void require_new_run(const fs::path& output) {
  WN_REQUIRE(!fs::exists(output) || (fs::is_directory(output) && fs::is_empty(output)),
             "{}: exists and is no empty folder; choose another --output", output.string());
}

void write_imported_run(const ImportedModel& imported, const fs::path& output, const Json& launch) {
  const fs::path folder = normal(output);
  require_new_run(folder);
  // A run without its checkpoint would start anew: it gets its name when all is there.
  const fs::path unfinished = folder.string() + ".importing";
  fs::remove_all(unfinished);
  try {
    const RunFolder run(unfinished);
    run.open(imported.config, launch);
    CheckpointInfo info;
    info.config = to_yaml(imported.config);
    info.tokenizer = imported.tokenizer;
    save_checkpoint(run.checkpoints(), info, fresh_shard(imported.parameters), {});
    fs::rename(unfinished, folder);
    sync_folder(folder.parent_path());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
    throw;
  }
}

}  // namespace wuneng::trainer
