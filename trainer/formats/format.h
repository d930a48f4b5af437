// The formats of other programs. One description of each serves `wuneng export` and `wuneng import`.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/config.h"
#include "trainer/formats/stored_tensors.h"
#include "trainer/formats/tensor_pairs.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {

// A model of another program, opened but not read.
struct OutsideModel {
  Config config;          // the model that the file describes; all else at its default
  std::string tokenizer;  // JSON; empty: unknown
  StoredTensors tensors;  // by the format's names
};

struct Format {
  std::string name, help;
  // Throws UsageError with the format's limit and the setting that breaks it, where it cannot hold the model.
  void (*check)(const Config& config);
  // Which of the format's tensors are which of ours.
  void (*pair)(const model::ModelConfig& config, TensorPairs& pairs);
  void (*write)(const SavedModel& saved, const NamedTensors& theirs, const std::filesystem::path& out);
  // Throws UsageError with place, value and remedy when the file is damaged or no setting of ours computes
  // its model.
  OutsideModel (*read)(const std::filesystem::path& path);
};

Format safetensors_format();  // our own: every model
Format llama_format();
Format gpt2_format();
Format rwkv_format();

const std::vector<Format>& formats();
const Format& format_named(const std::string& name);  // throws UsageError that lists those known
std::string formats_help();                           // "safetensors (...), llama (...), ..."

// A key that has one of a few values in every model of a format; imported models get the first.
struct FixedSetting {
  std::string_view key;
  std::vector<std::string_view> values;  // as `--set` writes them
};

// For Format::check: refuses a model that has another value there.
void require_settings(const Config& config, std::string_view format,
                      const std::vector<FixedSetting>& settings);
void apply_settings(Config& config, const std::vector<FixedSetting>& settings);

// For what no single key can tell: refuses unless `held`. `limit` says what the format holds, `value` what
// the model has.
void require_held(bool held, std::string_view format, std::string_view limit, const std::string& value);

// Puts a value that `place` says into a key, which checks its type and range.
void set_key(Config& config, std::string_view key, const std::string& value, const std::string& place);

}  // namespace wuneng::trainer
