// What the tests of tasks share: rows of batches, and counts against expectations.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <vector>

#include "data/tasks/task_set.h"

namespace wuneng::data {

using Numbers = std::vector<std::int64_t>;

inline DataConfig config_of(TaskName name, std::int64_t length, TaskConfig task = {}) {
  DataConfig data;
  data.sequence_length = length;
  data.task = std::move(task);
  data.task.name = name;
  return data;
}

// A row of a batch, with its padding.
struct Row {
  Numbers tokens, targets;
  bool special = false;
  bool operator==(const Row&) const = default;
};

inline std::vector<Row> rows_of(const Batch& batch) {
  std::vector<Row> rows;
  const std::int64_t T = batch.tokens.size(1);
  for (std::int64_t b = 0; b < batch.tokens.size(0); ++b) {
    const auto* token = batch.tokens.const_data_ptr<std::int64_t>() + b * T;
    const auto* target = batch.targets.const_data_ptr<std::int64_t>() + b * T;
    rows.push_back({Numbers(token, token + T), Numbers(target, target + T),
                    std::ranges::find(batch.special_rows, b) != batch.special_rows.end()});
  }
  return rows;
}

struct Data {
  explicit Data(const DataConfig& data, std::uint64_t seed = 1)
      : examples(std::make_shared<TaskExamples>(data, seed)),
        training(examples, data, seed),
        tests(make_tests(examples, data)) {}
  std::vector<Row> train_rows(std::int64_t count) const { return rows_of(training.batch(0, count)); }
  std::vector<Row> test_rows(std::int64_t count, std::size_t test = 0) const {
    return rows_of(tests[test].batch(0, count));
  }

  std::shared_ptr<const TaskExamples> examples;
  TaskTraining training;
  std::vector<TaskTest> tests;
};

// Pearson's statistic of counts against expectations; it fails beyond six standard deviations of its chance
// distribution, and where an expectation is too small for it to mean anything.
inline void expect_fits(const std::vector<double>& counts, const std::vector<double>& expected) {
  ASSERT_EQ(counts.size(), expected.size());
  double statistic = 0.0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    ASSERT_GE(expected[i], 5.0) << i;
    statistic += (counts[i] - expected[i]) * (counts[i] - expected[i]) / expected[i];
  }
  const double freedom = static_cast<double>(counts.size() - 1);
  EXPECT_LT(statistic, freedom + 6 * std::sqrt(2 * freedom));
}

inline void expect_uniform(const std::vector<double>& counts) {
  const double sum = std::accumulate(counts.begin(), counts.end(), 0.0);
  expect_fits(counts, std::vector<double>(counts.size(), sum / static_cast<double>(counts.size())));
}

// How many rows are of which length: tokens up to the last answer.
inline std::map<std::size_t, double> lengths_of(const std::vector<Row>& rows) {
  std::map<std::size_t, double> lengths;
  for (const Row& row : rows) {
    std::size_t end = row.targets.size();
    while (row.targets[end - 1] < 0) --end;
    ++lengths[end];
  }
  return lengths;
}

}  // namespace wuneng::data
