#include "data/tasks/task_set.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <charconv>

#include "common/check.h"
#include "common/hash.h"
#include "data/sampler.h"

namespace wuneng::data {
namespace {

constexpr std::uint64_t test_share = 5;    // one example in so many is a test's
constexpr std::int64_t most_draws = 2000;  // for one example; of two sides, the smaller is met in far fewer
constexpr std::int64_t longest_test = 10'000'000;

// The random draws of one example; training examples have no `size`.
Random random_for(std::uint64_t seed, const Size& size, std::int64_t index, std::int64_t attempt) {
  const std::uint64_t key[] = {seed, static_cast<std::uint64_t>(size.length),
                               static_cast<std::uint64_t>(size.count), static_cast<std::uint64_t>(index),
                               static_cast<std::uint64_t>(attempt)};
  return Random(hash_bytes(key, sizeof key));
}

// "128, 256:64" -> (128, 0), (256, 64).
std::vector<Size> read_sizes(const std::string& text) {
  std::vector<Size> sizes;
  for (const char *next = text.data(), *end = next + text.size(); next != end;) {
    if (*next == ' ' || *next == ',') {
      ++next;
      continue;
    }
    const char* stop = std::find_if(next, end, [](char c) { return c == ' ' || c == ','; });
    Size size;
    auto [after, error] = std::from_chars(next, stop, size.length);
    bool valid = error == std::errc() && size.length >= 1 && size.length <= longest_test;
    if (valid && after != stop && *after == ':') {
      const auto count = std::from_chars(after + 1, stop, size.count);
      valid = count.ec == std::errc() && size.count >= 1;
      after = count.ptr;
    }
    WN_REQUIRE(valid && after == stop,
               "data.task.test_lengths = \"{}\": '{}' is neither LENGTH nor LENGTH:COUNT in tokens, such as "
               "128 or 256:64",
               text, std::string(next, stop));
    sizes.push_back(size);
    next = stop;
  }
  return sizes;
}

// Rows of T tokens; example(row) gives one, or an empty one.
template <class MakeExample>
Batch make_batch(std::int64_t rows, std::int64_t T, const MakeExample& make_example) {
  WN_CHECK(rows >= 1, "a batch of {} sequences was asked for", rows);
  Batch batch{at::zeros({rows, T}, at::kLong),
              at::full({rows, T}, -1, at::kLong),
              at::empty({rows}, at::kLong),
              0,
              {}};
  for (std::int64_t row = 0; row < rows; ++row) {
    const Example example = make_example(row);
    WN_CHECK(std::ssize(example.tokens) <= T, "an example of {} tokens in a row of {}", example.tokens.size(),
             T);
    std::ranges::copy(example.tokens, batch.tokens.mutable_data_ptr<std::int64_t>() + row * T);
    std::ranges::copy(example.targets, batch.targets.mutable_data_ptr<std::int64_t>() + row * T);
    batch.document_starts.mutable_data_ptr<std::int64_t>()[row] = row * T;
    batch.real_tokens += std::ranges::count_if(example.targets, [](auto target) { return target >= 0; });
    if (example.special) batch.special_rows.push_back(row);
  }
  return batch;
}

}  // namespace

TaskExamples::TaskExamples(const DataConfig& data, std::uint64_t seed) : task_(make_task(data)), seed_(seed) {
  const std::int64_t T = data.sequence_length;
  add_test(std::to_string(T), {T, 0}, fmt::format("data.sequence_length = {}", T));
  for (const Size& size : read_sizes(data.task.test_lengths)) {
    const std::string name =
        size.count ? fmt::format("{}:{}", size.length, size.count) : std::to_string(size.length);
    add_test(name, size, fmt::format("data.task.test_lengths: {}", name));
  }
  for (const Test& test : tests_) check_enough(test.name, test.size);
}

void TaskExamples::add_test(const std::string& name, Size size, const std::string& place) {
  const std::int64_t usual = task_->count_of(size.length);
  WN_REQUIRE(size.count == 0 || usual > 0, "{}: this task has lengths only; give {}", place, size.length);
  if (size.count == 0) size.count = usual;
  task_->check(size, place);
  for (const Test& other : tests_)
    WN_REQUIRE(other.size.length != size.length || other.size.count != size.count,
               "{}: is tested already{}; name each length once", place,
               &other == tests_.data() ? ", as the training length" : "");
  Random random = random_for(seed_, size, 0, 0);
  const std::int64_t tokens = std::ssize(task_->draw(size, random).tokens);
  shortest_test_ = tests_.empty() ? tokens : std::min(shortest_test_, tokens);
  tests_.push_back({name, size});
}

// Both sides must have examples of the size, or a draw would never end.
void TaskExamples::check_enough(const std::string& name, const Size& size) const {
  bool found[2] = {false, false};
  for (std::int64_t attempt = 0; attempt < most_draws && !(found[0] && found[1]); ++attempt) {
    Random random = random_for(seed_, size, 0, attempt);
    found[side(task_->draw(size, random)) == Side::test] = true;
  }
  WN_REQUIRE(found[0] && found[1],
             "data.task.name: has too few different examples of length {} to keep some for the tests alone; "
             "raise the length",
             name);
}

std::int64_t TaskExamples::longest() const {
  return std::ranges::max_element(tests_, {}, [](const Test& test) { return test.size.length; })->size.length;
}

TaskExamples::Side TaskExamples::side(const Example& example) const {
  if (std::ssize(example.tokens) < shortest_test_) return Side::training;
  const std::uint64_t hash =
      hash_bytes(example.tokens.data(), example.tokens.size() * sizeof example.tokens[0]);
  return hash % test_share == 0 ? Side::test : Side::training;
}

Example TaskExamples::training_example(std::int64_t index) const {
  Random for_size = random_for(seed_, {}, index, -1);  // drawn once, so that no size is rarer for its tests
  const Size size = task_->training_size(tests_.front().size, for_size);
  for (std::int64_t attempt = 0; attempt < most_draws; ++attempt) {
    Random random = random_for(seed_, {}, index, attempt);
    Example example = task_->draw(size, random);
    if (side(example) == Side::training) return example;
  }
  throw Error(fmt::format("training example {}: {} draws all belonged to the tests", index, most_draws));
}

Example TaskExamples::test_example(const Size& size, std::int64_t index) const {
  for (std::int64_t attempt = 0; attempt < most_draws; ++attempt) {
    Random random = random_for(seed_, size, index, attempt);
    Example example = task_->draw(size, random);
    if (side(example) == Side::test) return example;
  }
  throw Error(fmt::format("test example {}: {} draws all belonged to training", index, most_draws));
}

TaskTraining::TaskTraining(std::shared_ptr<const TaskExamples> examples, const DataConfig& data,
                           std::uint64_t seed)
    : examples_(std::move(examples)),
      length_(data.sequence_length),
      distinct_(data.task.train_samples),
      seed_(seed) {}

Batch TaskTraining::batch(std::int64_t first, std::int64_t count) const {
  return make_batch(count, length_, [&](std::int64_t row) {
    const std::int64_t sample = first + row;
    if (distinct_ == 0) return examples_->training_example(sample);
    const Permutation order(distinct_, mix_bits(seed_) + static_cast<std::uint64_t>(sample / distinct_));
    return examples_->training_example(order(sample % distinct_));
  });
}

TaskTest::TaskTest(std::shared_ptr<const TaskExamples> examples, TaskExamples::Test test,
                   std::int64_t samples)
    : examples_(std::move(examples)), test_(std::move(test)), samples_(samples) {}

Batch TaskTest::batch(std::int64_t first, std::int64_t count) const {
  return make_batch(count, test_.size.length, [&](std::int64_t row) {
    return first + row < samples_ ? examples_->test_example(test_.size, first + row) : Example{};
  });
}

std::vector<TaskTest> make_tests(const std::shared_ptr<const TaskExamples>& examples,
                                 const DataConfig& data) {
  std::vector<TaskTest> tests;
  for (const TaskExamples::Test& test : examples->tests())
    tests.emplace_back(examples, test, data.task.test_samples);
  return tests;
}

std::uint64_t task_hash(const DataConfig& data) {
  const TaskConfig& task = data.task;
  return hash_text(
      fmt::format("{} length={} vocabulary={} count={} shortest={} pause_tokens={} random_filler={} "
                  "train_samples={} test_lengths={}",
                  spelling(task.name), data.sequence_length, task.vocabulary, task.count, task.shortest,
                  task.pause_tokens, task.random_filler, task.train_samples, task.test_lengths));
}

}  // namespace wuneng::data
