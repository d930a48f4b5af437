// Multi-query associative recall (Arora et al., arXiv 2312.04927; HazyResearch/zoology,
// zoology/data/multiquery_ar.py). `count` is K, the pairs; published: vocabulary 8192, K = T/16.
//
//   k1 v1 k2 v2 ... kK vK | 0 0 k2 0 0 0 k1 0 ...        after each key of the second part: its value
//
// Keys are different ids of 1 .. V/2-1, values different ids of V/2 .. V-1. The T-2K tokens after the pairs
// are slots of two; each key stands first in a slot of its own, and slot i = 1, 2, ... is drawn with
// probability proportional to i^(a-1), a = 0.01, without replacement: mostly early. The other tokens are 0,
// or uniform ids with data.task.random_filler. With data.task.shortest, training lengths are uniform from
// there to T and the pairs in proportion, in place of the source's mixed set of five sizes. Score: the share
// of queries right, mean over examples.
#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

constexpr std::int64_t published_vocabulary = 8192, published_tokens_per_pair = 16;
constexpr std::int64_t shortest_of_one_pair = 4;
constexpr double power = 0.01;  // a

class Mqar final : public Task {
 public:
  explicit Mqar(const DataConfig& data)
      : vocabulary_(data.task.vocabulary ? data.task.vocabulary : published_vocabulary),
        count_(data.task.count),
        shortest_(data.task.shortest),
        random_filler_(data.task.random_filler) {
    WN_REQUIRE(shortest_ == 0 || (shortest_ >= shortest_of_one_pair && shortest_ % 2 == 0 &&
                                  shortest_ <= data.sequence_length),
               "data.task.shortest = {}: must be an even number from {}, one pair and its query, to "
               "data.sequence_length = {}",
               shortest_, shortest_of_one_pair, data.sequence_length);
  }

  std::int64_t vocabulary() const override { return vocabulary_; }
  std::vector<Metric> metrics() const override { return {{"accuracy", Metric::Score::share}}; }
  std::int64_t count_of(std::int64_t length) const override {
    return count_ ? count_ : std::max<std::int64_t>(1, length / published_tokens_per_pair);
  }

  void check(const Size& size, const std::string& place) const override {
    WN_REQUIRE(size.length % 2 == 0, "{}: mqar reads tokens in twos; give an even length", place);
    WN_REQUIRE(
        4 * size.count <= size.length,
        "{}: {} pairs of mqar and their queries need {} tokens or more; lower data.task.count or raise "
        "the length",
        place, size.count, 4 * size.count);
    WN_REQUIRE(size.count <= vocabulary_ / 2 - 1,
               "{}: {} pairs of mqar need data.task.vocabulary = {} or more (it is {}), so that keys differ",
               place, size.count, 2 * size.count + 2, vocabulary_);
  }

  Size training_size(const Size& largest, Random& random) const override {
    if (shortest_ == 0) return largest;
    const std::int64_t length = shortest_ + 2 * random.below((largest.length - shortest_) / 2 + 1);
    return {length, std::max<std::int64_t>(1, largest.count * length / largest.length)};
  }

  Example draw(const Size& size, Random& random) const override {
    const std::int64_t half = vocabulary_ / 2, context = 2 * size.count;
    const auto keys = random.distinct(1, half - 1, size.count);
    const auto values = random.distinct(half, vocabulary_ - half, size.count);
    const auto slots = draw_slots((size.length - context) / 2, random);
    const auto length = static_cast<std::size_t>(size.length);
    Example example{std::vector<std::int64_t>(length, 0), std::vector<std::int64_t>(length, -1)};
    for (std::size_t pair = 0; pair < keys.size(); ++pair) {
      example.tokens[2 * pair] = keys[pair];
      example.tokens[2 * pair + 1] = values[pair];
      const auto query = static_cast<std::size_t>(context + 2 * slots[pair]);
      example.tokens[query] = keys[pair];
      example.targets[query] = values[pair];
    }
    if (random_filler_)
      for (std::int64_t& token : example.tokens)
        if (token == 0) token = random.below(vocabulary_);
    return example;
  }

 private:
  // All slots, in the order in which they would be drawn one by one without replacement: the order of waiting
  // times that are exponential with the slots' weights as rates.
  static std::vector<std::int64_t> draw_slots(std::int64_t slots, Random& random) {
    std::vector<std::pair<double, std::int64_t>> waits;
    for (std::int64_t slot = 0; slot < slots; ++slot) {
      const double weight = std::pow(static_cast<double>(slot + 1), power - 1.0);
      waits.emplace_back(-std::log(random.unit()) / weight, slot);
    }
    std::ranges::sort(waits);
    std::vector<std::int64_t> order;
    for (const auto& [wait, slot] : waits) order.push_back(slot);
    return order;
  }

  std::int64_t vocabulary_, count_, shortest_;
  bool random_filler_;
};

}  // namespace

std::unique_ptr<Task> make_mqar(const DataConfig& data) { return std::make_unique<Mqar>(data); }

}  // namespace wuneng::data
