// One made-up task: how an example is drawn and how answers are scored. Each family has a file of its own,
// named after it, that says where its definition was published.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/config.h"
#include "data/tasks/random.h"

namespace wuneng::data {

// How long an example is, and how many things it asks to remember.
struct Size {
  std::int64_t length = 0;  // tokens, at most
  std::int64_t count = 0;   // pairs, payload tokens, bits ...; 0 where a family has none
};

struct Example {
  std::vector<std::int64_t> tokens;
  std::vector<std::int64_t> targets;  // as many: the answer to give after this token, or -1
  bool special = false;               // in the subset that Metric::Score::special is about
};

// A number in 0..1 that evaluation reports.
struct Metric {
  enum class Score {
    share,    // the share of an example's answers that are right, mean over examples
    whole,    // the share of examples whose answers are all right
    special,  // the same of the special examples alone
  };
  std::string name;
  Score score;
};

class Task {
 public:
  virtual ~Task() = default;

  virtual std::int64_t vocabulary() const = 0;  // token ids and answers are 0 .. vocabulary-1
  virtual std::vector<Metric> metrics() const { return {{"accuracy", Metric::Score::whole}}; }

  // The count of an example of this length, where none is asked for; 0: this family has none.
  virtual std::int64_t count_of([[maybe_unused]] std::int64_t length) const { return 0; }
  // Throws UsageError, beginning with `place`, when there is no such example.
  virtual void check(const Size& size, const std::string& place) const = 0;

  // A pure function of `random`'s key.
  virtual Example draw(const Size& size, Random& random) const = 0;
  // The size of one training example, where not all have the largest.
  virtual Size training_size(const Size& largest, [[maybe_unused]] Random& random) const { return largest; }
};

// The task of the configuration. Throws UsageError when it sets what its task does not have. `data.task.name`
// must not be none.
std::unique_ptr<Task> make_task(const DataConfig& data);

// Names as the configuration spells them, `none` included.
std::vector<std::pair<std::string_view, TaskName>> task_names();
std::string_view spelling(TaskName name);

// Throws UsageError when `data.task` sets anything else although its name is none.
void check_no_task(const TaskConfig& task);

}  // namespace wuneng::data
