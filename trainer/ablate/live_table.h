// What a running ablation shows.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "trainer/progress.h"

namespace wuneng::trainer::ablate {

struct LiveState {
  std::size_t runs = 0, finished = 0, failed = 0;
  double seconds_left = -1.0;  // of all; negative: unknown yet
  struct Row {
    std::string name;
    std::optional<ProgressLine::State> progress;  // none: it has not made a step
  };
  std::vector<Row> running = {};
};

// One line about all, then one for each running run; none wider than `columns`.
std::vector<std::string> table_lines(const LiveState& state, int columns);

// Lines that overwrite themselves on a terminal; nothing elsewhere.
class LiveTable {
 public:
  LiveTable();
  ~LiveTable() { clear(); }
  LiveTable(const LiveTable&) = delete;
  LiveTable& operator=(const LiveTable&) = delete;

  void show(const LiveState& state);
  void clear();  // before a log line

 private:
  bool active_;
  std::size_t lines_ = 0;  // on the screen
};

}  // namespace wuneng::trainer::ablate
