#include <fmt/format.h>

#include <algorithm>
#include <sstream>
#include <utility>
#include <vector>

#include "trainer/config_value.h"

namespace wuneng::trainer {
namespace {

constexpr std::size_t page_width = 110, most_for_allowed = 45;

struct Row {
  std::string key, allowed, preset, help;
};

Row row_of(const Key& key, const Config& defaults) {
  const std::string unit = key.unit.empty() ? "" : fmt::format(" [{}]", key.unit);
  return {fmt::format("{}{}", key.path, key.resume == Resume::free ? "*" : ""), allowed_text(key),
          value_text(key, defaults), fmt::format("{}{}", key.help, unit)};
}

// The words of `text` in lines of at most `width`.
std::vector<std::string> wrap(const std::string& text, std::size_t width) {
  std::vector<std::string> lines(1);
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
  }
  return lines;
}

std::size_t column_width(const std::vector<Row>& rows, std::string Row::*column) {
  std::size_t width = 0;
  for (const Row& row : rows) width = std::max(width, (row.*column).size());
  return width;
}

// The rows as aligned columns; an empty line where the first part of the key changes.
std::string layout(const std::vector<Row>& rows) {
  const std::size_t key = column_width(rows, &Row::key),
                    allowed = std::min(column_width(rows, &Row::allowed), most_for_allowed),
                    preset = column_width(rows, &Row::preset);
  const std::size_t help = page_width - (key + allowed + preset + 6);
  std::string text, group;
  for (const Row& row : rows) {
    const std::string own_group = row.key.substr(0, row.key.find('.'));
    if (own_group != std::exchange(group, own_group)) text += '\n';
    std::vector<std::string> helps = wrap(row.help, help), values = wrap(row.allowed, allowed);
    const std::size_t lines = std::max(helps.size(), values.size());
    helps.resize(lines), values.resize(lines);
    for (std::size_t i = 0; i < lines; ++i) {
      const std::string line = fmt::format("{:<{}}  {:<{}}  {:<{}}  {}", i == 0 ? row.key : "", key,
                                           values[i], allowed, i == 0 ? row.preset : "", preset, helps[i]);
      text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    }
  }
  return text;
}

}  // namespace

std::string describe_config_keys() {
  const Config defaults;
  std::vector<Row> rows = {{"KEY", "VALUES", "DEFAULT", "MEANING [UNIT]"}};
  for (const Key& key : config_keys()) rows.push_back(row_of(key, defaults));
  return layout(rows).substr(1) +
         "\n* a resumed run may change this key; the others must stay as they were\n"
         "`extends: FILE`, or a list of files, at the top of a file starts from the settings of those "
         "files\n";
}

}  // namespace wuneng::trainer
