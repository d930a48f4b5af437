// What somebody who wrote an unknown name probably meant.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace wuneng::trainer {

enum class NameKind { key, section };

// "did you mean model.attention.heads?", or the names known in the nearest section that exists when nothing
// resembles `path`.
std::string spelling_hint(std::string_view path, NameKind kind);

// The same among any names: "did you mean seeds?", or "known: base, seeds".
std::string spelling_hint(std::string_view name, const std::vector<std::string_view>& known);

}  // namespace wuneng::trainer
