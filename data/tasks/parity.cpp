// Parity (Grazzi et al., arXiv 2411.12537; automl/unlocking_state_tracking,
// xlstm/experiments/parity_delta_net*.yaml): random bits, and after the last one whether the ones among them
// are odd in number.
//
//   0 1 1 0 1                 after the last bit: 1
//
// Training lengths are uniform from `shortest` (published: 3) to T (published: 40); tests have their own
// (published: 40 to 256).
#include <algorithm>

#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

constexpr std::int64_t published_shortest = 3;

class Parity final : public Task {
 public:
  explicit Parity(const DataConfig& data)
      : shortest_(data.task.shortest ? data.task.shortest
                                     : std::min(published_shortest, data.sequence_length)) {
    WN_REQUIRE(shortest_ <= data.sequence_length,
               "data.task.shortest = {}: must be at most data.sequence_length = {}", shortest_,
               data.sequence_length);
  }

  std::int64_t vocabulary() const override { return 2; }
  void check(const Size&, const std::string&) const override {}  // every length will do

  Example draw(const Size& size, Random& random) const override {
    Example example;
    std::int64_t ones = 0;
    for (std::int64_t t = 0; t < size.length; ++t) {
      example.tokens.push_back(random.below(2));
      example.targets.push_back(-1);
      ones += example.tokens.back();
    }
    example.targets.back() = ones % 2;
    return example;
  }

  Size training_size(const Size& largest, Random& random) const override {
    return {shortest_ + random.below(largest.length - shortest_ + 1), 0};
  }

 private:
  std::int64_t shortest_;
};

}  // namespace

std::unique_ptr<Task> make_parity(const DataConfig& data) { return std::make_unique<Parity>(data); }

}  // namespace wuneng::data
