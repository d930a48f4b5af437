// Folders of the transformers library: config.json, and model.safetensors or its shards.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/json.h"
#include "trainer/config.h"
#include "trainer/formats/stored_tensors.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {

// A field of config.json that is a key of our configuration.
struct SharedField {
  const char* theirs;
  const char* ours;
  const char* absent;  // what a file without it means, as `--set` would write it; nullptr: it must be there
};

// A field that must have one of these values; the first is written, and meant by a file without it.
struct FixedField {
  const char* theirs;
  std::vector<Json> values;
};

Json shared_json(const std::vector<SharedField>& fields, const Config& config);
// Both throw UsageError with place, field and value.
void read_shared(const std::vector<SharedField>& fields, const Json& json, const std::string& place,
                 Config& config);
void require_fixed(const std::vector<FixedField>& fields, const Json& json, const std::string& place);

// The field; null where it is not there, which transformers takes for the same.
Json field_of(const Json& json, const char* name);

// `config` with the fixed fields, and with what every such file has.
void write_transformers_folder(const std::filesystem::path& folder, const SavedModel& saved,
                               const NamedTensors& tensors, Json config,
                               const std::vector<FixedField>& fixed);
Json read_transformers_config(const std::filesystem::path& folder, std::string& place);
StoredTensors read_transformers_tensors(const std::filesystem::path& folder);

}  // namespace wuneng::trainer
