// Models of other programs as runs that can be trained on.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "common/json.h"
#include "parallel/parameters.h"
#include "trainer/config.h"

namespace wuneng::trainer {

struct ImportSource {
  std::filesystem::path path;          // file or folder, as the format has it
  std::string format;                  // as `wuneng export` knows them (formats/format.h)
  std::vector<std::string> overrides;  // "key=value", for what the file does not say
  std::string tokenizer;               // name or file; empty: that of the file, if it has one
};

struct ImportedModel {
  Config config;
  parallel::Parameters parameters;
  std::string tokenizer;  // JSON; empty: unknown
};

// Reads a whole model, converted to float32. Throws UsageError with place, value and remedy when the file is
// damaged, holds more or less than its model needs, or a model that no setting of this program computes.
ImportedModel import_model(const ImportSource& source);

// Throws UsageError unless the folder is absent or empty.
void require_new_run(const std::filesystem::path& output);

// Makes the run folder `output`, a new one, with config.yaml, run.json (with `launch`) and a
// checkpoint at step 0, which any corpus may follow (checkpoint.h). The folder appears whole or not at all.
void write_imported_run(const ImportedModel& imported, const std::filesystem::path& output,
                        const Json& launch);

}  // namespace wuneng::trainer
