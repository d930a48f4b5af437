// Needle in a haystack, for small models (the WuNeng paper, arXiv 2504.19191, hides a number in text at any
// depth of contexts up to 1.75 times the training length): a rare token and the value after it somewhere in
// random tokens; at the end the rare token again, and the value is to be said.
//
//   . . . KEY v1 v2 v3 v4 . . . . KEY v1 v2 v3       after the last four: v1 v2 v3 v4
//
// `count` is the tokens of the value, 4 by default; vocabulary 64 by default. Filler and value are uniform in
// 0 .. V-2, KEY is V-1, and the needle's place is uniform over all that are possible. Score: the share of
// examples with the whole value right.
#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

constexpr std::int64_t default_vocabulary = 64, default_count = 4;

class Needle final : public Task {
 public:
  explicit Needle(const TaskConfig& task)
      : vocabulary_(task.vocabulary ? task.vocabulary : default_vocabulary),
        count_(task.count ? task.count : default_count) {
    WN_REQUIRE(vocabulary_ >= 3, "data.task.vocabulary = {}: needle needs 3 or more, two fillers and the key",
               vocabulary_);
  }

  std::int64_t vocabulary() const override { return vocabulary_; }
  std::int64_t count_of(std::int64_t) const override { return count_; }

  void check(const Size& size, const std::string& place) const override {
    WN_REQUIRE(size.length > 2 * size.count,
               "{}: a needle of {} tokens and its query take {} tokens or more; lower data.task.count or "
               "raise the length",
               place, size.count, 2 * size.count + 1);
  }

  Example draw(const Size& size, Random& random) const override {
    const std::int64_t key = vocabulary_ - 1;
    const auto length = static_cast<std::size_t>(size.length), count = static_cast<std::size_t>(size.count);
    Example example{{}, std::vector<std::int64_t>(length, -1)};
    for (std::size_t t = 0; t < length; ++t) example.tokens.push_back(random.below(key));
    const auto needle = static_cast<std::size_t>(random.below(size.length - 2 * size.count));
    const std::size_t query = length - count;
    example.tokens[needle] = example.tokens[query] = key;
    for (std::size_t i = 0; i < count; ++i) {
      example.targets[query + i] = example.tokens[needle + 1 + i];
      if (i + 1 < count) example.tokens[query + 1 + i] = example.tokens[needle + 1 + i];
    }
    return example;
  }

 private:
  std::int64_t vocabulary_, count_;
};

}  // namespace

std::unique_ptr<Task> make_needle(const DataConfig& data) { return std::make_unique<Needle>(data.task); }

}  // namespace wuneng::data
