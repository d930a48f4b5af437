// What holds for every task: training and tests are apart, samples are pure functions, settings are checked.
#include "data/tasks/task_set.h"

#include <gmock/gmock.h>

#include <functional>
#include <set>

#include "common/check.h"
#include "tests/data/task_support.h"
#include "tests/support/scratch.h"

namespace wuneng::data {
namespace {

using testing::HasSubstr;
using tests::message_of;

// Tokens up to the last answer: what belongs to an example. No task goes on after it but mqar, whose rows are
// full.
Numbers content(const Row& row) {
  std::size_t end = row.tokens.size();
  while (end > 0 && row.targets[end - 1] < 0 && row.tokens[end - 1] == 0) --end;
  return Numbers(row.tokens.begin(), row.tokens.begin() + static_cast<std::ptrdiff_t>(end));
}

// Settings with so few different examples that training and tests would meet, were they not kept apart.
const DataConfig small[] = {
    config_of(TaskName::mqar, 6, {.vocabulary = 8, .count = 1}),
    config_of(TaskName::a5, 4, {.shortest = 4}),
    config_of(TaskName::s5, 4),
    config_of(TaskName::parity, 8, {.test_lengths = "6"}),
    config_of(TaskName::selective_copy, 7, {.vocabulary = 5, .count = 2}),
    config_of(TaskName::state_recall, 22, {.count = 5}),
    config_of(TaskName::needle, 6, {.vocabulary = 4, .count = 1}),
};

std::string name_of(const DataConfig& data) { return std::string(spelling(data.task.name)); }

TEST(Tasks, TrainingAndTestsShareNoExampleWhateverTheSeeds) {
  for (const DataConfig& data : small) {
    const Data trained(data, 1), tested(data, 2);
    std::set<Numbers> training, first, second;
    for (const Row& row : trained.train_rows(20000)) training.insert(content(row));
    for (std::size_t test = 0; test < trained.tests.size(); ++test) {
      for (const Row& row : trained.test_rows(1000, test)) first.insert(content(row));
      for (const Row& row : tested.test_rows(1000, test)) second.insert(content(row));
    }
    const auto expect_apart = [&](const std::set<Numbers>& tests) {
      EXPECT_GT(tests.size(), 3u) << name_of(data);
      for (const Numbers& each : tests) EXPECT_FALSE(training.contains(each)) << name_of(data);
    };
    expect_apart(first), expect_apart(second);
  }
}

TEST(Tasks, AboutAFifthOfAllExamplesAreTestsAndShorterOnesAreFree) {
  const Data data(config_of(TaskName::parity, 10, {.test_samples = 20000}));
  std::set<Numbers> training, tests;
  for (const Row& row : data.train_rows(100000)) {
    const auto length = lengths_of({row}).begin()->first;
    training.insert(Numbers(row.tokens.begin(), row.tokens.begin() + static_cast<std::ptrdiff_t>(length)));
  }
  for (const Row& row : data.test_rows(20000)) tests.insert(row.tokens);
  std::int64_t longest = 0, shorter = 0;
  for (const Numbers& each : training) (each.size() == 10 ? longest : shorter) += 1;
  EXPECT_EQ(shorter, 8 + 16 + 32 + 64 + 128 + 256 + 512);
  EXPECT_EQ(longest + std::ssize(tests), 1024);
  EXPECT_NEAR(static_cast<double>(tests.size()), 1024.0 / 5, 6 * std::sqrt(1024 * 0.2 * 0.8));
}

TEST(Tasks, ABatchIsItsSamplesOneByOneAndAFunctionOfTheSeed) {
  for (const DataConfig& data : small) {
    const Data one(data, 5), again(data, 5), other(data, 6);
    const std::vector<Row> rows = rows_of(one.training.batch(3, 8)),
                           tests = rows_of(one.tests[0].batch(3, 8));
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(rows_of(again.training.batch(3 + i, 1))[0], rows[static_cast<std::size_t>(i)]);
      EXPECT_EQ(rows_of(again.tests[0].batch(3 + i, 1))[0], tests[static_cast<std::size_t>(i)]);
    }
    EXPECT_NE(rows_of(other.training.batch(3, 8)), rows) << name_of(data);
    EXPECT_NE(rows_of(other.tests[0].batch(3, 8)), tests) << name_of(data);
    EXPECT_NE(rows_of(one.training.batch(4, 8)), rows) << name_of(data);
  }
}

TEST(Tasks, BatchesAreWhatAModelExpects) {
  for (const DataConfig& data : small) {
    const Data each(data);
    const std::int64_t vocabulary = each.examples->task().vocabulary();
    std::set<std::int64_t> used;
    for (const Batch& batch : {each.training.batch(0, 2000), each.tests[0].batch(0, 500)}) {
      const std::int64_t rows = batch.tokens.size(0), T = data.sequence_length;
      EXPECT_EQ(batch.tokens.sizes(), (at::IntArrayRef{rows, T}));
      EXPECT_EQ(batch.targets.sizes(), batch.tokens.sizes());
      std::int64_t real = 0;
      for (const Row& row : rows_of(batch)) {
        for (const std::int64_t token : row.tokens) {
          EXPECT_TRUE(token >= 0 && token < vocabulary) << name_of(data);
          used.insert(token);
        }
        for (const std::int64_t target : row.targets) {
          EXPECT_TRUE(target >= -1 && target < vocabulary) << name_of(data);
          real += target >= 0;
        }
      }
      EXPECT_EQ(batch.real_tokens, real);
      ASSERT_EQ(batch.document_starts.numel(), rows);
      for (std::int64_t row = 0; row < rows; ++row)
        EXPECT_EQ(batch.document_starts.const_data_ptr<std::int64_t>()[row], row * T);
    }
    EXPECT_EQ(std::ssize(used), vocabulary) << name_of(data) << " leaves ids unused";
  }
}

TEST(Tasks, ATestEndsAfterItsSamples) {
  const Data data(config_of(TaskName::parity, 8, {.test_samples = 5}));
  EXPECT_EQ(data.tests[0].samples(), 5);
  const std::vector<Row> rows = rows_of(data.tests[0].batch(3, 4));
  EXPECT_GE(rows[1].targets.back(), 0);
  for (const std::size_t beyond : {2u, 3u}) EXPECT_EQ(rows[beyond].targets, Numbers(8, -1));
  EXPECT_EQ(data.tests[0].batch(3, 4).real_tokens, 2);
}

TEST(Tasks, FewTrainingSamplesComeOncePerEpochInAnotherOrder) {
  const Data data(config_of(TaskName::a5, 21, {.train_samples = 50}));
  const std::vector<Row> first = rows_of(data.training.batch(0, 50)),
                         second = rows_of(data.training.batch(50, 50));
  EXPECT_NE(first, second);
  std::multiset<Numbers> first_set, second_set;
  for (const Row& row : first) first_set.insert(row.tokens);
  for (const Row& row : second) second_set.insert(row.tokens);
  EXPECT_EQ(first_set, second_set);
  EXPECT_EQ(std::set<Numbers>(first_set.begin(), first_set.end()).size(), 50u);
}

TEST(Tasks, TheHashTellsEverySettingThatMakesOtherData) {
  std::set<std::uint64_t> hashes;
  std::vector<DataConfig> all(std::begin(small), std::end(small));
  const DataConfig base = small[0];
  for (const auto& change : std::vector<std::function<void(DataConfig&)>>{
           [](DataConfig& data) { data.sequence_length = 8; }, [](DataConfig& data) { data.task.count = 2; },
           [](DataConfig& data) { data.task.vocabulary = 9; },
           [](DataConfig& data) { data.task.shortest = 3; },
           [](DataConfig& data) { data.task.pause_tokens = 1; },
           [](DataConfig& data) { data.task.random_filler = true; },
           [](DataConfig& data) { data.task.train_samples = 3; },
           [](DataConfig& data) { data.task.test_lengths = "8"; }}) {
    all.push_back(base);
    change(all.back());
  }
  for (const DataConfig& data : all) hashes.insert(task_hash(data));
  EXPECT_EQ(hashes.size(), all.size());
  DataConfig more_tests = base;
  more_tests.task.test_samples = 7;
  EXPECT_EQ(task_hash(more_tests), task_hash(base)) << "they train alike";
}

TEST(Tasks, SettingsThatCannotWorkAreRefused) {
  struct Case {
    DataConfig data;
    const char* message;
  };
  const Case cases[] = {
      {config_of(TaskName::mqar, 63), "data.sequence_length = 63: mqar reads tokens in twos"},
      {config_of(TaskName::mqar, 64, {.count = 17}),
       "data.sequence_length = 64: 17 pairs of mqar and their "
       "queries need 68 tokens or more"},
      {config_of(TaskName::mqar, 64, {.vocabulary = 16, .count = 8}),
       "need data.task.vocabulary = 18 or more"},
      {config_of(TaskName::mqar, 64, {.shortest = 9}),
       "data.task.shortest = 9: must be an even number from 4"},
      {config_of(TaskName::mqar, 64, {.shortest = 66}), "to data.sequence_length = 64"},
      {config_of(TaskName::needle, 64, {.shortest = 8}),
       "data.task.shortest: data.task.name = needle has no such setting; leave it at auto"},
      {config_of(TaskName::mqar, 64, {.test_lengths = "128, 30:8"}),
       "data.task.test_lengths: 30:8: 8 pairs of mqar and their queries need 32"},
      {config_of(TaskName::mqar, 64, {.test_lengths = "64"}), "tested already, as the training length"},
      {config_of(TaskName::mqar, 64, {.test_lengths = "64:4"}), "tested already, as the training length"},
      {config_of(TaskName::mqar, 64, {.test_lengths = "128,128"}), "128: is tested already; name each"},
      {config_of(TaskName::parity, 21, {.count = 3}),
       "data.task.count: data.task.name = parity has no such setting"},
      {config_of(TaskName::a5, 21, {.count = 2}),
       "data.task.count = 2: an element of this group moves 3 to 5"},
      {config_of(TaskName::s5, 21, {.count = 6}),
       "data.task.count = 6: an element of this group moves 2 to 5"},
      {config_of(TaskName::a5, 3), "a word problem needs 4 tokens or more"},
      {config_of(TaskName::a5, 21, {.test_lengths = "3"}), "a word problem needs 4 tokens or more"},
      {config_of(TaskName::a5, 21, {.shortest = 22}), "data.task.shortest = 22: must be from 2"},
      {config_of(TaskName::s5, 21, {.shortest = 1}), "data.task.shortest = 1: must be from 2"},
      {config_of(TaskName::s5, 21, {.test_lengths = "41:3"}), "41:3: this task has lengths only; give 41"},
      {config_of(TaskName::parity, 40, {.vocabulary = 4}),
       "data.task.vocabulary: data.task.name = parity has"},
      {config_of(TaskName::parity, 40, {.pause_tokens = 1}), "leave it at 0"},
      {config_of(TaskName::a5, 9, {.pause_tokens = 2}), "needs 10 tokens or more"},
      {config_of(TaskName::parity, 40, {.random_filler = true}), "leave it at false"},
      {config_of(TaskName::parity, 40, {.shortest = 41}), "data.task.shortest = 41: must be at most"},
      {config_of(TaskName::parity, 1), "too few different examples of length 1"},
      {config_of(TaskName::selective_copy, 33), "to copy 16 tokens out of blanks takes 34 tokens or more"},
      {config_of(TaskName::selective_copy, 64, {.vocabulary = 3}), "selective_copy needs 4 or more"},
      {config_of(TaskName::state_recall, 30), "4 bits: state_recall needs 5 or more"},
      {config_of(TaskName::state_recall, 32, {.count = 16}), "16 bits and one swap take 33 tokens or more"},
      {config_of(TaskName::state_recall, 78, {.test_lengths = "78:17"}), "no more than the 16 of training"},
      {config_of(TaskName::state_recall, 78, {.shortest = 29}), "must be from 30, 16 bits and no swap"},
      {config_of(TaskName::needle, 8), "a needle of 4 tokens and its query take 9 tokens or more"},
      {config_of(TaskName::needle, 32, {.vocabulary = 2}), "needle needs 3 or more"},
  };
  for (const Case& each : cases)
    EXPECT_THAT(message_of<UsageError>([&] { TaskExamples(each.data, 1); }), HasSubstr(each.message));
  for (const char* lengths : {"x", "128 x", "128:", "128:0", "128:x", "0", "-4", "12.5",
                              "99999999999999999999", "128;256", "128:4:4"})
    EXPECT_THAT(message_of<UsageError>(
                    [&] { TaskExamples(config_of(TaskName::mqar, 64, {.test_lengths = lengths}), 1); }),
                testing::AllOf(HasSubstr(fmt::format("data.task.test_lengths = \"{}\"", lengths)),
                               HasSubstr("neither LENGTH nor LENGTH:COUNT")));
}

TEST(Tasks, WithoutATaskItsSettingsAreRefused) {
  check_no_task({});
  EXPECT_THAT(message_of<UsageError>([] { check_no_task({.count = 4}); }),
              HasSubstr("data.task.count: data.task.name = none has no such setting"));
  EXPECT_THAT(message_of<UsageError>([] { check_no_task({.test_lengths = "12"}); }),
              HasSubstr("data.task.test_lengths = \"12\": data.task.name = none"));
}

TEST(Random, NumbersBelowABoundAreUniformAndDistinctOnesAreDistinct) {
  Random random(3);
  std::vector<double> hits(7), firsts(5);
  for (int i = 0; i < 7000; ++i) ++hits[static_cast<std::size_t>(random.below(7))];
  for (int i = 0; i < 5000; ++i) {
    const Numbers drawn = random.distinct(10, 5, 3);
    EXPECT_EQ(std::set<std::int64_t>(drawn.begin(), drawn.end()).size(), 3u);
    for (const std::int64_t number : drawn) EXPECT_TRUE(number >= 10 && number < 15);
    ++firsts[static_cast<std::size_t>(drawn[0] - 10)];
  }
  expect_uniform(hits), expect_uniform(firsts);
  // Of 3/8 * 2^64 numbers, plain remainders would favour the lower two thirds, 3 to 2.
  constexpr std::int64_t most = INT64_MAX / 4 * 3;
  std::vector<double> thirds(3);
  for (int i = 0; i < 6000; ++i) ++thirds[static_cast<std::size_t>(random.below(most) / (most / 3 + 1))];
  expect_uniform(thirds);
}

}  // namespace
}  // namespace wuneng::data
