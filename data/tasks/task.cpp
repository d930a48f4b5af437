#include "data/tasks/task.h"

#include <algorithm>

#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

struct Family {
  std::string_view name;
  TaskName id;
  std::unique_ptr<Task> (*make)(const DataConfig&);
  // Which keys of data.task mean something.
  bool vocabulary = false, count = false, shortest = false, pause_tokens = false, random_filler = false;
};

const Family families[] = {
    {.name = "mqar",
     .id = TaskName::mqar,
     .make = make_mqar,
     .vocabulary = true,
     .count = true,
     .shortest = true,
     .random_filler = true},
    {.name = "a5",
     .id = TaskName::a5,
     .make = make_a5,
     .count = true,
     .shortest = true,
     .pause_tokens = true},
    {.name = "s5",
     .id = TaskName::s5,
     .make = make_s5,
     .count = true,
     .shortest = true,
     .pause_tokens = true},
    {.name = "parity", .id = TaskName::parity, .make = make_parity, .shortest = true},
    {.name = "selective_copy",
     .id = TaskName::selective_copy,
     .make = make_selective_copy,
     .vocabulary = true,
     .count = true},
    {.name = "state_recall",
     .id = TaskName::state_recall,
     .make = make_state_recall,
     .count = true,
     .shortest = true},
    {.name = "needle", .id = TaskName::needle, .make = make_needle, .vocabulary = true, .count = true},
};

const Family& family_of(TaskName name) {
  const auto found = std::ranges::find(families, name, &Family::id);
  WN_CHECK(found != std::end(families), "a task without a family: {}", static_cast<int>(name));
  return *found;
}

void check_keys(const TaskConfig& task, const Family& family) {
  const auto refuse = [&](std::string_view key, bool set, bool known, std::string_view preset) {
    WN_REQUIRE(!set || known, "data.task.{}: data.task.name = {} has no such setting; leave it at {}", key,
               family.name, preset);
  };
  refuse("vocabulary", task.vocabulary != 0, family.vocabulary, "auto");
  refuse("count", task.count != 0, family.count, "auto");
  refuse("shortest", task.shortest != 0, family.shortest, "auto");
  refuse("pause_tokens", task.pause_tokens != 0, family.pause_tokens, "0");
  refuse("random_filler", task.random_filler, family.random_filler, "false");
}

}  // namespace

std::unique_ptr<Task> make_task(const DataConfig& data) {
  const Family& family = family_of(data.task.name);
  check_keys(data.task, family);
  return family.make(data);
}

std::vector<std::pair<std::string_view, TaskName>> task_names() {
  std::vector<std::pair<std::string_view, TaskName>> names = {{"none", TaskName::none}};
  for (const Family& family : families) names.emplace_back(family.name, family.id);
  return names;
}

std::string_view spelling(TaskName name) { return name == TaskName::none ? "none" : family_of(name).name; }

void check_no_task(const TaskConfig& task) {
  check_keys(task, {.name = "none", .id = TaskName::none, .make = nullptr});
  WN_REQUIRE(task.test_lengths.empty(),
             "data.task.test_lengths = \"{}\": data.task.name = none has no such setting; leave it empty",
             task.test_lengths);
}

}  // namespace wuneng::data
