#include "trainer/ablate/live_table.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace wuneng::trainer::ablate {

std::vector<std::string> table_lines(const LiveState& state, int columns) {
  const auto width = static_cast<std::size_t>(std::max(0, columns));
  std::size_t names = 0;
  for (const LiveState::Row& row : state.running) names = std::max(names, row.name.size());
  names = std::min(names, width / 3);
  std::vector<std::string> lines;
  lines.push_back(fmt::format("runs {}/{} done, {} running, {} failed  ETA {}", state.finished, state.runs,
                              state.running.size(), state.failed, duration_text(state.seconds_left)));
  for (const LiveState::Row& row : state.running) {
    const std::string head = fmt::format("  {:<{}}  ", row.name.substr(0, names), names);
    lines.push_back(head + (row.progress
                                ? progress_text(*row.progress, 0, columns - static_cast<int>(head.size()))
                                : "starting"));
  }
  for (std::string& line : lines) line.resize(std::min(line.size(), width));
  return lines;
}

LiveTable::LiveTable() : active_(::isatty(STDERR_FILENO) == 1) {}

void LiveTable::show(const LiveState& state) {
  if (!active_) return;
  clear();
  // The last column stays free: some terminals begin a new line once it is filled.
  for (const std::string& line : table_lines(state, terminal_columns() - 1)) {
    fmt::print(stderr, "{}\n", line);
    ++lines_;
  }
  std::fflush(stderr);
}

void LiveTable::clear() {
  if (lines_ > 0) fmt::print(stderr, "\x1b[{}A\r\x1b[J", lines_);
  lines_ = 0;
  std::fflush(stderr);
}

}  // namespace wuneng::trainer::ablate
