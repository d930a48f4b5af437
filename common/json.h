// JSON: objects keep the order of their keys, floats round-trip.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string_view>

namespace wuneng {

using Json = nlohmann::ordered_json;

// Parse; a syntax error is a UsageError that names `place` (a file name) and the position.
Json parse_json(std::string_view text, std::string_view place);
Json read_json(const std::filesystem::path& path);

}  // namespace wuneng
