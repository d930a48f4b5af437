// Word problems of a group (Merrill et al., arXiv 2404.08819; jopetty/word-problem, src/generate_data.py and
// src/main.py): after each element, the product of all so far, from left to right.
//
//   BOS g1 g2 g3 ... gn       after each g: g1, g1 g2, g1 g2 g3, ...
//
// Elements are uniform; ids 0 .. order-1 are the permutations of five things in lexicographic order (of A5
// the even ones), 0 is the identity, BOS is the last id. (p q)(i) = q(p(i)): p acts first. With `count` they
// are uniform among those that move at most so many things: of S5 the identity and the swaps with 2, which
// one transition of a state can follow exactly if it may turn signs (Grazzi et al., arXiv 2411.12537). What
// moves k things takes up to k - 1 swaps, and a token is one transition: with `pause_tokens` each element is
// followed by so many BOS and answered after the last of them, which gives a state the several transitions
// per element that DeltaProduct (arXiv 2502.10297) makes within one token. A row of T tokens holds n = (T-1)
// / (1 + pause_tokens) elements. Published training: the strings of the tested length n and all those of
// length 2; the share of the latter is not fixed there, and one training example in 32 is of length 2 here.
// With data.task.shortest, lengths are uniform from there to T instead. Score: the share of examples with
// every product right; accuracy_per_token beside it.
#include <algorithm>
#include <array>

#include "common/check.h"
#include "data/tasks/families.h"

namespace wuneng::data {
namespace {

using Permutation5 = std::array<std::int8_t, 5>;

constexpr std::int64_t one_in = 32;  // training examples is of two elements

std::size_t moved_by(const Permutation5& p) {
  std::size_t moved = 0;
  for (std::size_t i = 0; i < p.size(); ++i) moved += p[i] != static_cast<std::int8_t>(i);
  return moved;
}

bool is_even(const Permutation5& p) {
  int inversions = 0;
  for (std::size_t i = 0; i < p.size(); ++i)
    for (std::size_t j = i + 1; j < p.size(); ++j) inversions += p[i] > p[j];
  return inversions % 2 == 0;
}

// In lexicographic order.
std::vector<Permutation5> permutations(bool even_only) {
  std::vector<Permutation5> all;
  Permutation5 p = {0, 1, 2, 3, 4};
  do {
    if (!even_only || is_even(p)) all.push_back(p);
  } while (std::ranges::next_permutation(p).found);
  return all;
}

class WordProblem final : public Task {
 public:
  WordProblem(const DataConfig& data, bool even_only)
      : shortest_(data.task.shortest), count_(data.task.count), pause_(data.task.pause_tokens) {
    const std::vector<Permutation5> elements = permutations(even_only);
    order_ = std::ssize(elements);
    for (std::int64_t id = 0; id < order_; ++id)
      for (std::size_t count = moved_by(elements[static_cast<std::size_t>(id)]); count < moving_.size();
           ++count)
        moving_[count].push_back(id);
    for (const Permutation5& p : elements)
      for (const Permutation5& q : elements) {
        Permutation5 product;
        for (std::size_t i = 0; i < p.size(); ++i) product[i] = q[static_cast<std::size_t>(p[i])];
        products_.push_back(std::ranges::lower_bound(elements, product) - elements.begin());
      }
    WN_REQUIRE(shortest_ == 0 || (shortest_ >= tokens(1) && shortest_ <= data.sequence_length),
               "data.task.shortest = {}: must be from {}, BOS and an element, to data.sequence_length = {}",
               shortest_, tokens(1), data.sequence_length);
  }

  std::int64_t vocabulary() const override { return order_ + 1; }
  std::vector<Metric> metrics() const override {
    return {{"accuracy", Metric::Score::whole}, {"accuracy_per_token", Metric::Score::share}};
  }

  std::int64_t count_of(std::int64_t) const override { return count_; }

  void check(const Size& size, const std::string& place) const override {
    WN_REQUIRE(
        size.count <= all && (size.count == 0 || moving_[static_cast<std::size_t>(size.count)].size() > 1),
        "{}: data.task.count = {}: an element of this group moves {} to {} of five things", place, size.count,
        std::ranges::find_if(moving_, [](const auto& ids) { return ids.size() > 1; }) - moving_.begin(), all);
    WN_REQUIRE(size.length >= tokens(3),
               "{}: a word problem needs {} tokens or more, BOS and three elements: all shorter strings are "
               "trained on",
               place, tokens(3));
  }

  Example draw(const Size& size, Random& random) const override {
    const std::vector<std::int64_t>& elements =
        moving_[static_cast<std::size_t>(size.count ? size.count : all)];
    Example example{{order_}, {-1}};
    std::int64_t product = 0;
    for (std::int64_t n = 1; tokens(n) <= size.length; ++n) {
      const std::int64_t element = elements[static_cast<std::size_t>(random.below(std::ssize(elements)))];
      product = products_[static_cast<std::size_t>(product * order_ + element)];
      example.tokens.push_back(element);
      example.tokens.insert(example.tokens.end(), static_cast<std::size_t>(pause_), order_);
      example.targets.insert(example.targets.end(), static_cast<std::size_t>(pause_), -1);
      example.targets.push_back(product);
    }
    return example;
  }

  Size training_size(const Size& largest, Random& random) const override {
    Size size = largest;
    if (shortest_ > 0)
      size.length = shortest_ + random.below(largest.length - shortest_ + 1);
    else if (random.below(one_in) == 0)
      size.length = tokens(2);
    return size;
  }

 private:
  std::int64_t tokens(std::int64_t elements) const { return 1 + elements * (1 + pause_); }

  static constexpr std::int64_t all = 5;

  std::int64_t shortest_, count_, pause_, order_ = 0;
  std::array<std::vector<std::int64_t>, all + 1> moving_;  // [n]: ids that move at most n things
  std::vector<std::int64_t> products_;                     // [order, order]
};

}  // namespace

std::unique_ptr<Task> make_a5(const DataConfig& data) { return std::make_unique<WordProblem>(data, true); }
std::unique_ptr<Task> make_s5(const DataConfig& data) { return std::make_unique<WordProblem>(data, false); }

}  // namespace wuneng::data
