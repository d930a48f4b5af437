// The random draws of one example.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "common/hash.h"

namespace wuneng::data {

// SplitMix64 (Steele et al. 2014): the n-th draw is a pure function of the key and n, the same on every
// machine.
class Random {
 public:
  explicit Random(std::uint64_t key) : state_(mix_bits(key)) {}

  std::uint64_t bits() {
    const std::uint64_t draw = mix_bits(state_);
    state_ += 0x9e3779b97f4a7c15ULL;
    return draw;
  }

  // Uniform in 0 .. n-1, exactly: the few draws that would favour some numbers are drawn again.
  std::int64_t below(std::int64_t n) {
    const auto range = static_cast<std::uint64_t>(n);
    const std::uint64_t surplus = (0 - range) % range;  // 2^64 mod n
    std::uint64_t draw = bits();
    while (draw < surplus) draw = bits();
    return static_cast<std::int64_t>(draw % range);
  }

  // Uniform in (0, 1].
  double unit() { return static_cast<double>((bits() >> 11) + 1) * 0x1p-53; }

  // `count` different numbers of first .. first+size-1, in random order.
  std::vector<std::int64_t> distinct(std::int64_t first, std::int64_t size, std::int64_t count) {
    std::vector<std::int64_t> numbers(static_cast<std::size_t>(size));
    std::iota(numbers.begin(), numbers.end(), first);
    for (std::int64_t i = 0; i < count; ++i)
      std::swap(numbers[static_cast<std::size_t>(i)], numbers[static_cast<std::size_t>(i + below(size - i))]);
    numbers.resize(static_cast<std::size_t>(count));
    return numbers;
  }

 private:
  std::uint64_t state_;
};

}  // namespace wuneng::data
