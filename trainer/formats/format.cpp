#include "trainer/formats/format.h"

#include <algorithm>

#include "common/check.h"
#include "trainer/config_keys.h"
#include "trainer/config_value.h"

namespace wuneng::trainer {
namespace {

const Key& key_named(std::string_view path) {
  const Key* key = find_key(path);
  WN_CHECK(key != nullptr, "there is no key {}", path);
  return *key;
}

}  // namespace

const std::vector<Format>& formats() {
  static const std::vector<Format> all{gpt2_format(), llama_format(), rwkv_format(), safetensors_format()};
  return all;
}

const Format& format_named(const std::string& name) {
  const auto found = std::ranges::find(formats(), name, &Format::name);
  if (found != formats().end()) return *found;
  std::vector<std::string_view> names;
  for (const Format& format : formats()) names.push_back(format.name);
  throw UsageError(fmt::format("--format {}: is not known; one of: {}", name, fmt::join(names, ", ")));
}

std::string formats_help() {
  std::string text;
  for (const Format& format : formats())
    text += fmt::format("{}{} ({})", text.empty() ? "" : ", ", format.name, format.help);
  return text;
}

void require_settings(const Config& config, std::string_view format,
                      const std::vector<FixedSetting>& settings) {
  for (const auto& [key, values] : settings) {
    const std::string value = value_text(key_named(key), config);
    require_held(std::ranges::find(values, value) != values.end(), format,
                 fmt::format("models of {} = {} alone", key, fmt::join(values, " or ")),
                 fmt::format("{} = {}", key, value));
  }
}

void apply_settings(Config& config, const std::vector<FixedSetting>& settings) {
  for (const auto& [key, values] : settings) set_key(config, key, std::string(values[0]), std::string(key));
}

void require_held(bool held, std::string_view format, std::string_view limit, const std::string& value) {
  WN_REQUIRE(held,
             "--format {}: holds {}, but this one has {}; use --format safetensors, which holds every model",
             format, limit, value);
}

void set_key(Config& config, std::string_view key, const std::string& value, const std::string& place) {
  set_value(key_named(key), {value, false, place}, config);
}

}  // namespace wuneng::trainer
