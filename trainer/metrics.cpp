#include "trainer/metrics.h"

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

// Rewrites the file without the lines that the constructor drops; returns its path.
const std::filesystem::path& drop_later_lines(const std::filesystem::path& file, std::int64_t last_step) {
  if (!std::filesystem::exists(file)) return file;
  const std::string text = read_text(file);
  std::string kept;
  std::int64_t number = 0;
  for (std::size_t begin = 0, end; begin < text.size(); begin = end + 1) {
    end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    const Json json = Json::parse(line, nullptr, false);
    ++number;
    const auto step = json.is_object() ? json.find("step") : json.end();
    if (step == json.end() || !step->is_number_integer()) {
      WN_REQUIRE(end == text.size(),
                 "{}:{}: is not a JSON object with a step; remove the line, or move the file away",
                 file.string(), number);
      break;
    }
    if (step->get<std::int64_t>() <= last_step) kept.append(line).append("\n");
  }
  if (kept != text) write_file_atomically(file, kept);
  return file;
}

}  // namespace

MetricsFile::MetricsFile(const std::filesystem::path& file, std::int64_t last_step)
    : file_(drop_later_lines(file, last_step), OutputFile::Mode::append) {}

void MetricsFile::write(const Json& line) {
  WN_CHECK(line.contains("step"), "metrics: a line without a step: {}", line.dump());
  file_.write(line.dump() + "\n");
}

}  // namespace wuneng::trainer
