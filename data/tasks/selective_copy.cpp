// Selective copying (Poli et al., arXiv 2403.17844; athms/mad-lab, mad/data/instances.py): payload tokens
// with blanks strewn between them, then a marker, then blanks at which the payload is to be said again.
//
//   _ p1 _ _ p2 p3 MARK _ _ _         at the last K blanks: p1 p2 p3
//
// `count` is K, the payload tokens; published: K = 16, vocabulary 16, T = 256. Payload ids are uniform in
// 0 .. V-3, the blank is V-2, the marker V-1. Each of the T-2K-1 blanks goes before a payload token that is
// drawn uniformly, so none follows the last one. Score: the share of tokens right.
#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

constexpr std::int64_t published_vocabulary = 16, published_count = 16;

class SelectiveCopy final : public Task {
 public:
  explicit SelectiveCopy(const TaskConfig& task)
      : vocabulary_(task.vocabulary ? task.vocabulary : published_vocabulary),
        count_(task.count ? task.count : published_count) {
    WN_REQUIRE(vocabulary_ >= 4,
               "data.task.vocabulary = {}: selective_copy needs 4 or more, two payload ids, blank and marker",
               vocabulary_);
  }

  std::int64_t vocabulary() const override { return vocabulary_; }
  std::vector<Metric> metrics() const override { return {{"accuracy", Metric::Score::share}}; }
  std::int64_t count_of(std::int64_t) const override { return count_; }

  void check(const Size& size, const std::string& place) const override {
    WN_REQUIRE(size.length > 2 * size.count + 1,
               "{}: to copy {} tokens out of blanks takes {} tokens or more; lower data.task.count or raise "
               "the length",
               place, size.count, 2 * size.count + 2);
  }

  Example draw(const Size& size, Random& random) const override {
    const std::int64_t blank = vocabulary_ - 2, marker = vocabulary_ - 1;
    std::vector<std::int64_t> payload, blanks_before(static_cast<std::size_t>(size.count));
    for (std::int64_t i = 0; i < size.count; ++i) payload.push_back(random.below(blank));
    for (std::int64_t i = 0; i < size.length - 2 * size.count - 1; ++i)
      ++blanks_before[static_cast<std::size_t>(random.below(size.count))];
    Example example;
    for (std::size_t i = 0; i < payload.size(); ++i) {
      example.tokens.insert(example.tokens.end(), static_cast<std::size_t>(blanks_before[i]), blank);
      example.tokens.push_back(payload[i]);
    }
    example.tokens.push_back(marker);
    example.targets.resize(example.tokens.size(), -1);
    example.tokens.resize(static_cast<std::size_t>(size.length), blank);
    example.targets.insert(example.targets.end(), payload.begin(), payload.end());
    return example;
  }

 private:
  std::int64_t vocabulary_, count_;
};

}  // namespace

std::unique_ptr<Task> make_selective_copy(const DataConfig& data) {
  return std::make_unique<SelectiveCopy>(data.task);
}

}  // namespace wuneng::data
