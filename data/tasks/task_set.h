// The examples of a task, as a run trains on them and is tested on them.
//
// Every example is a pure function of (seed, what it is for, its number), so no rank and no resumed run sees
// others. Training and tests are disjoint by construction: where an example is as long as one of the tests or
// longer, a fixed hash of its tokens says on which side it belongs, one in five on the tests', and one that
// was drawn for the other side is drawn again; what is shorter than every test is free for training.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/config.h"
#include "data/samples.h"
#include "data/tasks/task.h"

namespace wuneng::data {

// A task with the split of its examples; shared by the samples below.
class TaskExamples {
 public:
  enum class Side { training, test };

  // Throws UsageError as make_task() and Task::check() do, for unreadable data.task.test_lengths, and when a
  // length has too few different examples for both sides.
  TaskExamples(const DataConfig& data, std::uint64_t seed);

  const Task& task() const { return *task_; }
  // The training size first, then those of data.task.test_lengths, each with its name: "128" or "256:64".
  struct Test {
    std::string name;
    Size size;
  };
  const std::vector<Test>& tests() const { return tests_; }
  std::int64_t longest() const;  // tokens of the longest test

  Example training_example(std::int64_t index) const;
  Example test_example(const Size& size, std::int64_t index) const;
  // Where an example may be used.
  Side side(const Example& example) const;

 private:
  void add_test(const std::string& name, Size size, const std::string& place);
  void check_enough(const std::string& name, const Size& size) const;

  std::unique_ptr<Task> task_;
  std::uint64_t seed_;
  std::vector<Test> tests_;
  std::int64_t shortest_test_ = 0;  // tokens
};

// Endless: sample n is training example n, or, with data.task.train_samples, one of the first so many, each
// once per epoch in an order that changes every epoch. Rows have T tokens; what an example leaves over is
// filled with zeros, without a target. Every row is a document of its own.
class TaskTraining final : public Samples {
 public:
  TaskTraining(std::shared_ptr<const TaskExamples> examples, const DataConfig& data, std::uint64_t seed);
  Batch batch(std::int64_t first, std::int64_t count) const override;

 private:
  std::shared_ptr<const TaskExamples> examples_;
  std::int64_t length_, distinct_;
  std::uint64_t seed_;
};

// data.task.test_samples examples of one size, in rows of that size.
class TaskTest final : public FiniteSamples {
 public:
  TaskTest(std::shared_ptr<const TaskExamples> examples, TaskExamples::Test test, std::int64_t samples);

  const std::string& name() const { return test_.name; }
  std::vector<Metric> metrics() const { return examples_->task().metrics(); }
  std::int64_t samples() const override { return samples_; }
  Batch batch(std::int64_t first, std::int64_t count) const override;

 private:
  std::shared_ptr<const TaskExamples> examples_;
  TaskExamples::Test test_;
  std::int64_t samples_;
};

// The tests of a task, the one at the training length first.
std::vector<TaskTest> make_tests(const std::shared_ptr<const TaskExamples>& examples, const DataConfig& data);

// Identity of a task's data: its name and all its settings.
std::uint64_t task_hash(const DataConfig& data);

}  // namespace wuneng::data
