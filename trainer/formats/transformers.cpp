#include "trainer/formats/transformers.h"

#include <algorithm>

#include "common/check.h"
#include "common/file.h"
#include "trainer/config_keys.h"
#include "trainer/config_value.h"
#include "trainer/formats/format.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* config_name = "config.json";
constexpr const char* weights_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

std::string joined(const std::vector<Json>& values) {
  std::string text;
  for (const Json& value : values) text += fmt::format("{}{}", text.empty() ? "" : " or ", value.dump());
  return text;
}

// {tensor: file} of an index; every file lies beside it.
std::map<std::string, std::string> read_index(const fs::path& index) {
  const Json json = read_json(index);
  const Json map = field_of(json, "weight_map");
  WN_REQUIRE(map.is_object(), "{}: weight_map: is missing; download the model again", index.string());
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map.items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    WN_REQUIRE(!name.empty() && fs::path(name).filename() == name,
               "{}: weight_map: {}: {} is not the name of a file beside the index; download the model again",
               index.string(), tensor, file.dump());
    files[tensor] = name;
  }
  return files;
}

StoredTensors read_shards(const fs::path& folder) {
  std::map<std::string, StoredTensors> shards;
  StoredTensors all;
  for (const auto& [tensor, name] : read_index(folder / index_name)) {
    auto shard = shards.find(name);
    if (shard == shards.end())
      shard =
          shards.emplace(name, stored_tensors(std::make_shared<const SafetensorsFile>(folder / name))).first;
    const auto found = shard->second.find(tensor);
    WN_REQUIRE(found != shard->second.end(), "{}: has no tensor {}, but {} says so; download both again",
               (folder / name).string(), tensor, index_name);
    all[tensor] = found->second;
  }
  return all;
}

}  // namespace

Json field_of(const Json& json, const char* name) {
  const auto found = json.find(name);
  return found == json.end() ? Json(nullptr) : *found;
}

Json shared_json(const std::vector<SharedField>& fields, const Config& config) {
  Json json = Json::object();
  for (const SharedField& field : fields) {
    const Key& key = *find_key(field.ours);
    const Json value = Json::parse(value_text(key, config));
    json[field.theirs] = std::holds_alternative<RealKind>(key.kind) ? Json(value.get<double>()) : value;
  }
  return json;
}

void read_shared(const std::vector<SharedField>& fields, const Json& json, const std::string& place,
                 Config& config) {
  for (const SharedField& field : fields) {
    const Json value = field_of(json, field.theirs);
    WN_REQUIRE(!value.is_null() || field.absent != nullptr, "{}: {}: is missing; add it to the file", place,
               field.theirs);
    set_key(config, field.ours, value.is_null() ? field.absent : value.dump(),
            fmt::format("{}: {} = {}", place, field.theirs, value.dump()));
  }
}

void require_fixed(const std::vector<FixedField>& fields, const Json& json, const std::string& place) {
  for (const FixedField& field : fields) {
    const Json value = field_of(json, field.theirs);
    WN_REQUIRE(value.is_null() || std::ranges::find(field.values, value) != field.values.end(),
               "{}: {} = {}: must be {}, because no setting of this program computes anything else; import a "
               "model that has it so",
               place, field.theirs, value.dump(), joined(field.values));
  }
}

void write_transformers_folder(const fs::path& folder, const SavedModel& saved, const NamedTensors& tensors,
                               Json config, const std::vector<FixedField>& fixed) {
  for (const FixedField& field : fixed) config[field.theirs] = field.values[0];
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = saved.tokenizer ? Json(saved.tokenizer->end_of_document()) : Json(nullptr);
  config["torch_dtype"] = "float32";
  make_folder(folder);
  write_safetensors(folder / weights_name, tensors, {{"format", "pt"}});
  write_file_atomically(folder / config_name, config.dump(2) + "\n");
}

Json read_transformers_config(const fs::path& folder, std::string& place) {
  WN_REQUIRE(fs::is_directory(folder),
             "{}: is not a folder; give the one that transformers' save_pretrained() made", folder.string());
  place = (folder / config_name).string();
  Json json = read_json(folder / config_name);
  WN_REQUIRE(json.is_object(), "{}: is not a JSON object; download the model again", place);
  WN_REQUIRE(
      field_of(json, "quantization_config").is_null(),
      "{}: quantization_config: this program reads floating-point weights alone; import the model that "
      "was quantized",
      place);
  return json;
}

StoredTensors read_transformers_tensors(const fs::path& folder) {
  if (fs::exists(folder / index_name)) return read_shards(folder);
  WN_REQUIRE(fs::exists(folder / weights_name),
             "{}: has neither {} nor {}; where the weights are in another form, load them in Python and call "
             "save_pretrained(FOLDER, safe_serialization=True)",
             folder.string(), weights_name, index_name);
  return stored_tensors(std::make_shared<const SafetensorsFile>(folder / weights_name));
}

}  // namespace wuneng::trainer
