#include "common/json.h"

#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"

namespace wuneng {

Json parse_json(std::string_view text, std::string_view place) {
  try {
    return Json::parse(text);
  } catch (const Json::exception& error) {
    throw UsageError(fmt::format("{}: is not valid JSON: {}", place, error.what()));
  }
}

Json read_json(const std::filesystem::path& path) { return parse_json(read_text(path), path.string()); }

}  // namespace wuneng
