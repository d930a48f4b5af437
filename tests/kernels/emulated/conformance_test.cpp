// The emulator's primitives against expectations written from the PTX ISA's own formulas, element by element.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <functional>
#include <limits>
#include <map>
#include <regex>
#include <sstream>
#include <string>

#include "tests/kernels/emulated/conformance_run.h"

namespace wuneng {
namespace {

constexpr int threads = device::conformance_threads;

std::uint32_t bits(float x) { return std::bit_cast<std::uint32_t>(x); }

// The rows in the order in which the kernel writes them.
class Conformance : public testing::TestWithParam<std::uint64_t> {
 protected:
  void SetUp() override { words_ = emulated_conformance(GetParam()); }

  // The next row holds expected(warp, lane).
  void row(const std::string& what, const std::function<std::uint32_t(int warp, int lane)>& expected) {
    for (int t = 0; t < threads; ++t)
      ASSERT_EQ(words_[row_ * threads + t], expected(t / 32, t % 32))
          << what << ", row " << row_ << ", thread " << t;
    ++row_;
  }
  void skip(int rows) { row_ += rows; }
  int rows_read() const { return row_; }

 private:
  std::vector<std::uint32_t> words_;
  int row_ = 0;
};

constexpr int shuffle_rows = 16, barrier_rows = 2, load_rows = 16, product_rows = 8, copy_rows = 24;

TEST_P(Conformance, Shuffles) {
  const auto value = [](int warp, int lane) { return bits(static_cast<float>(100 * warp + lane + 1)); };
  for (const int mask : {1, 2, 4, 8, 16, 21})
    row("xor", [&](int warp, int lane) { return value(warp, lane ^ mask); });
  for (const int delta : {1, 16, 31})
    row("down", [&](int warp, int lane) { return value(warp, lane + delta > 31 ? lane : lane + delta); });
  for (const int delta : {1, 16, 31})
    row("up", [&](int warp, int lane) { return value(warp, lane - delta < 0 ? lane : lane - delta); });
  row("broadcast", [&](int warp, int) { return value(warp, 5); });
  row("index", [&](int warp, int lane) { return value(warp, (warp * 32 + lane) * 7 % 32); });
  row("reversed", [&](int warp, int lane) { return value(warp, 31 - lane); });
  // Up by 3 leaves lanes 0..2 alone; then lanes 29..31 keep what they have, the values of 26..28.
  row("up and down", [&](int warp, int lane) { return value(warp, lane < 29 ? lane : lane - 3); });
}

TEST_P(Conformance, Barriers) {
  skip(shuffle_rows);
  row("block", [](int warp, int lane) { return 1000u + 63 - (32 * warp + lane); });
  row("warp", [](int warp, int lane) { return 2000u + 32 * warp + (lane ^ 13); });
}

TEST_P(Conformance, MatrixLoads) {
  skip(shuffle_rows + barrier_rows);
  for (const bool permuted : {false, true})
    for (const bool transposed : {false, true})
      for (int matrix = 0; matrix < 4; ++matrix)
        row("ldmatrix", [&](int warp, int lane) {
          // "Each thread loads a fragment of a row": thread T has row T / 4, elements 2 (T % 4) and the next.
          std::uint32_t halves[2];
          for (int h = 0; h < 2; ++h) {
            const int i = lane / 4, j = 2 * (lane % 4) + h;
            const int in_matrix = transposed ? j : i, column = transposed ? i : j;
            const int address_lane = 8 * matrix + in_matrix;  // threads 8m .. 8m+7 address matrix m
            const int stored_row = permuted ? (address_lane * 11 + 5) % 32 : address_lane;
            halves[h] = 0x1000 * warp + 0x10 * stored_row + column;
          }
          return halves[0] | halves[1] << 16;
        });
}

// The element (thread, register half i) of the operands of m16n8k16, as the PTX ISA words them.
struct Element {
  int row, column;
};
Element a_element(int lane, int i) {
  const int group = lane >> 2, in_group = lane % 4;
  const bool upper = (0 <= i && i < 2) || (4 <= i && i < 6);
  return {upper ? group : group + 8, in_group * 2 + (i & 1) + (i < 4 ? 0 : 8)};
}
Element b_element(int lane, int i) { return {(lane % 4) * 2 + (i & 1) + (i < 2 ? 0 : 8), lane >> 2}; }
Element c_element(int lane, int i) { return {(lane >> 2) + (i < 2 ? 0 : 8), (lane % 4) * 2 + (i & 1)}; }

TEST_P(Conformance, Products) {
  skip(shuffle_rows + barrier_rows + load_rows);
  const auto integer = [](int thread, int i) { return (thread * 37 + i * 101) % 61 - 30; };
  std::int64_t c[2][16][8] = {};
  for (int pass = 0; pass < 2; ++pass) {
    for (int warp = 0; warp < 2; ++warp) {
      std::map<std::pair<int, int>, int> a, b;
      for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; ++i) {
          const auto [m, k] = a_element(lane, i);
          a[{m, k}] = integer(warp * 32 + lane, pass * 12 + i);
        }
        for (int i = 0; i < 4; ++i) {
          const auto [k, n] = b_element(lane, i);
          b[{k, n}] = integer(warp * 32 + lane, pass * 12 + 8 + i);
        }
      }
      ASSERT_EQ(a.size(), 256u);
      ASSERT_EQ(b.size(), 128u);
      for (const auto& [mk, x] : a)
        for (int n = 0; n < 8; ++n) c[warp][mk.first][n] += x * b.at({mk.second, n});
    }
    for (int i = 0; i < 4; ++i)
      row("mma", [&](int warp, int lane) {
        const auto [m, n] = c_element(lane, i);
        return bits(static_cast<float>(c[warp][m][n]));
      });
  }
}

TEST_P(Conformance, Copies) {
  skip(shuffle_rows + barrier_rows + load_rows + product_rows);
  const auto source = [](int group, int thread, int word) {
    const bool zero = group == 2 && thread % 3 == 0;
    return zero ? 0u : 0x01000193u * static_cast<std::uint32_t>((group * threads + thread) * 4 + word + 1);
  };
  for (const int shift : {0, 33})
    for (int group = 0; group < 3; ++group)
      for (int word = 0; word < 4; ++word)
        row("copy",
            [&](int warp, int lane) { return source(group, (32 * warp + lane + shift) % threads, word); });
}

// The nearest bf16, the even one of two, found by trying its neighbours; not by the trick of adding half.
std::uint32_t nearest_bf16(float x) {
  if (std::isnan(x)) return 0x7fff;
  const auto down = static_cast<std::uint16_t>(bits(x) >> 16);
  const auto number = [](std::uint16_t b) -> double {
    if ((b & 0x7fff) == 0x7f80) return std::copysign(std::ldexp(1.0, 128), b & 0x8000 ? -1.0 : 1.0);
    return std::bit_cast<float>(static_cast<std::uint32_t>(b) << 16);
  };
  if (std::isinf(x) || number(down) == x) return down;
  const auto up = static_cast<std::uint16_t>(down + 1);  // away from zero
  const double below = std::abs(x - number(down)), above = std::abs(number(up) - x);
  if (below != above) return below < above ? down : up;
  return down % 2 == 0 ? down : up;
}

std::uint32_t conformance_input(int thread) {
  const std::uint32_t special[16] = {0x00000000, 0x80000000, 0x3f808000, 0x3f818000, 0x3f807fff, 0x3f808001,
                                     0xbf808000, 0xbf818000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
                                     0x7fc00000, 0xffc12345, 0x000116c2, 0x00808000};
  return thread < 16 ? special[thread] : 0x3e000000u + 0x0123457u * static_cast<std::uint32_t>(thread);
}

TEST_P(Conformance, Numbers) {
  skip(shuffle_rows + barrier_rows + load_rows + product_rows + copy_rows);
  const auto input = [](int warp, int lane) { return conformance_input(32 * warp + lane); };
  const auto first = [&](int warp, int lane) {
    return nearest_bf16(std::bit_cast<float>(input(warp, lane)));
  };
  const auto second = [&](int warp, int lane) {
    return nearest_bf16(std::bit_cast<float>(conformance_input((32 * warp + lane + 17) % threads)));
  };
  row("bits", input);
  row("pack", [&](int warp, int lane) { return first(warp, lane) | second(warp, lane) << 16; });
  row("low", [&](int warp, int lane) { return first(warp, lane) << 16; });
  row("high", [&](int warp, int lane) { return second(warp, lane) << 16; });
  row("to_bf16", first);
  row("to_float", [&](int warp, int lane) { return input(warp, lane) & 0xffff0000u; });
  for (int i = 0; i < 6; ++i)
    row("exp2 of integers", [&](int warp, int lane) {
      const int x = 32 * warp + lane + 64 * i - 192;
      if (x > 127) return bits(std::numeric_limits<float>::infinity());
      return x < -126 ? 0u : static_cast<std::uint32_t>(x + 127) << 23;  // subnormal results are flushed
    });
  for (int i = 0; i < 20; ++i)
    row("exp2 of 64ths", [&](int warp, int lane) {
      const double y = std::exp2((32 * warp + lane + 64 * i - 1216) / 64.0);
      // No result is near a tie, so that the unit's 2 ulp cannot matter.
      EXPECT_EQ(nearest_bf16(static_cast<float>(y * (1 - 1e-6))),
                nearest_bf16(static_cast<float>(y * (1 + 1e-6))));
      return nearest_bf16(static_cast<float>(y));
    });
  EXPECT_EQ(rows_read(), device::conformance_rows);
}

INSTANTIATE_TEST_SUITE_P(Seeds, Conformance, testing::Range<std::uint64_t>(0, emulator::seeds()));

}  // namespace
}  // namespace wuneng
