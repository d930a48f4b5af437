// State-based recall (Olmo Hybrid, arXiv 2604.03444): a memory of n bits, five pointers into it, m swaps of
// pointers, then what the first pointer points to. Following the swaps needs a state, reading the bit needs
// recall.
//
//   BITS b1 .. bn  POINTERS a A1 b A2 c A3 d A4 e A5  (SWAP x y) m times  QUERY a     after it: the bit
//
// One token per bit, pointer, address and marker, 11 + n ids: bits 0 and 1, pointers a .. e as 2 .. 6,
// addresses 7 .. 6+n, the markers BITS, POINTERS, SWAP, QUERY as 7+n .. 10+n. Addresses of the pointers
// differ; a swap exchanges the addresses of two different pointers. The paper fixes tokens and sizes (n = 16
// to 32, m = 4 to 16, sweeps with n = m) but not the markers' places, which are ours.
// `count` is n. m is what fits: m = (T - n - 14) / 3 rounded down; by default n = m = (T - 14) / 4. With
// data.task.shortest, training rows have any number of swaps from what fits there, none at 14 + n. Score:
// the share of examples right; accuracy_moved of those whose first pointer ended elsewhere than it began,
// where who never follows a swap is at chance, one half.
#include <array>

#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

constexpr std::int64_t pointers = 5, first_pointer = 2, first_address = first_pointer + pointers;
constexpr std::int64_t fixed_tokens = 1 + 1 + 2 * pointers + 2, tokens_per_swap = 3;

class StateRecall final : public Task {
 public:
  explicit StateRecall(const DataConfig& data)
      : bits_(data.task.count ? data.task.count : (data.sequence_length - fixed_tokens) / 4),
        shortest_(data.task.shortest) {
    WN_REQUIRE(shortest_ == 0 || (shortest_ >= bits_ + fixed_tokens && shortest_ <= data.sequence_length),
               "data.task.shortest = {}: must be from {}, {} bits and no swap, to data.sequence_length = {}",
               shortest_, bits_ + fixed_tokens, bits_, data.sequence_length);
  }

  std::int64_t vocabulary() const override { return first_address + bits_ + 4; }
  std::vector<Metric> metrics() const override {
    return {{"accuracy", Metric::Score::whole}, {"accuracy_moved", Metric::Score::special}};
  }
  std::int64_t count_of(std::int64_t) const override { return bits_; }

  void check(const Size& size, const std::string& place) const override {
    WN_REQUIRE(size.count >= pointers && size.count <= bits_,
               "{}: {} bits: state_recall needs {} or more, one for each pointer, and no more than the {} of "
               "training",
               place, size.count, pointers, bits_);
    WN_REQUIRE(swaps(size) >= 1,
               "{}: a memory of {} bits and one swap take {} tokens or more; lower data.task.count or raise "
               "the length",
               place, size.count, size.count + fixed_tokens + tokens_per_swap);
  }

  Size training_size(const Size& largest, Random& random) const override {
    if (shortest_ == 0) return largest;
    const std::int64_t least = swaps({shortest_, largest.count}), most = swaps(largest);
    const std::int64_t drawn = least + random.below(most - least + 1);
    return {largest.count + fixed_tokens + drawn * tokens_per_swap, largest.count};
  }

  Example draw(const Size& size, Random& random) const override {
    const std::int64_t marker = first_address + bits_;
    Example example;
    std::vector<std::int64_t>& tokens = example.tokens;
    tokens.push_back(marker);
    std::vector<std::int64_t> memory;
    for (std::int64_t i = 0; i < size.count; ++i) memory.push_back(random.below(2));
    tokens.insert(tokens.end(), memory.begin(), memory.end());
    tokens.push_back(marker + 1);
    std::vector<std::int64_t> address = random.distinct(0, size.count, pointers);
    const std::int64_t start = address[0];
    for (std::int64_t p = 0; p < pointers; ++p)
      tokens.insert(tokens.end(), {first_pointer + p, first_address + address[static_cast<std::size_t>(p)]});
    for (std::int64_t i = 0; i < swaps(size); ++i) {
      const std::vector<std::int64_t> pair = random.distinct(0, pointers, 2);
      std::swap(address[static_cast<std::size_t>(pair[0])], address[static_cast<std::size_t>(pair[1])]);
      tokens.insert(tokens.end(), {marker + 2, first_pointer + pair[0], first_pointer + pair[1]});
    }
    tokens.insert(tokens.end(), {marker + 3, first_pointer});
    example.targets.resize(tokens.size(), -1);
    example.targets.back() = memory[static_cast<std::size_t>(address[0])];
    example.special = address[0] != start;
    return example;
  }

 private:
  static std::int64_t swaps(const Size& size) {
    return (size.length - size.count - fixed_tokens) / tokens_per_swap;
  }

  std::int64_t bits_, shortest_;
};

}  // namespace

std::unique_ptr<Task> make_state_recall(const DataConfig& data) {
  return std::make_unique<StateRecall>(data);
}

}  // namespace wuneng::data
