// One kernel that runs every primitive of warp.cuh with inputs that differ from lane to lane and writes all
// that comes out. A GPU's words must equal the emulator's exactly, before any other result of a GPU is
// believed.
//
// out [conformance_rows][conformance_threads]: row by row in the order of the calls below, one word per
// thread. All arithmetic is exact (small integers, powers of two), so that nothing depends on a unit's
// rounding.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/device/warp.cuh"

namespace wuneng::device {

constexpr int conformance_threads = 64;
constexpr int conformance_rows = 98;
constexpr int conformance_words = conformance_rows * conformance_threads;

struct ConformanceShared {
  alignas(16) std::uint32_t copies[3][conformance_threads][4];
  alignas(16) bf16 matrices[conformance_threads][8];  // four 8x8 matrices per warp
  std::uint32_t words[conformance_threads];
};

// What the asynchronous copies read.
struct ConformanceSource {
  alignas(16) std::uint32_t words[3][conformance_threads][4];
};
constexpr ConformanceSource conformance_source() {
  ConformanceSource source{};
  std::uint32_t next = 0;
  for (auto& group : source.words)
    for (auto& words : group)
      for (std::uint32_t& word : words) word = 0x01000193u * ++next;
  return source;
}
__device__ const ConformanceSource conformance_copies = conformance_source();

WUNENG_DEVICE std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Row after row of the output.
struct ConformanceOutput {
  std::uint32_t* next;
  WUNENG_DEVICE void word(std::uint32_t x) {
    *next = x;
    next += conformance_threads;
  }
  WUNENG_DEVICE void number(float x) { word(float_bits(x)); }
};

// 16 rows. Values 100 * warp + lane + 1.
WUNENG_DEVICE void conform_shuffles(ConformanceOutput& out, int thread) {
  const float x = static_cast<float>(thread / warp_size * 100 + thread % warp_size + 1);
  for (int mask = 1; mask < 32; mask *= 2) out.number(shuffle_xor(x, mask));
  out.number(shuffle_xor(x, 21));
  out.number(shuffle_down(x, 1));
  out.number(shuffle_down(x, 16));
  out.number(shuffle_down(x, 31));
  out.number(shuffle_up(x, 1));
  out.number(shuffle_up(x, 16));
  out.number(shuffle_up(x, 31));
  out.number(shuffle(x, 5));
  out.number(shuffle(x, thread * 7 % 32));          // from lane to lane another
  out.number(shuffle(x, 31 - thread % warp_size));  // reversed
  out.number(shuffle_down(shuffle_up(x, 3), 3));
}

// 2 rows: what another warp, then another lane of the warp, has stored.
WUNENG_DEVICE void conform_barriers(ConformanceOutput& out, ConformanceShared& s, int thread) {
  s.words[thread] = 1000u + static_cast<std::uint32_t>(thread);
  sync_block();
  out.word(s.words[conformance_threads - 1 - thread]);
  sync_block();
  s.words[thread] = 2000u + static_cast<std::uint32_t>(thread);
  sync_warp();
  out.word(s.words[thread ^ 13]);
}

// 16 rows: rows in order, and in an order that no two lanes share. Element (row, column) of a warp's 32 rows
// is 0x1000 * warp + 0x10 * row + column.
WUNENG_DEVICE void conform_matrix_loads(ConformanceOutput& out, ConformanceShared& s, int thread) {
  for (int column = 0; column < 8; ++column)
    s.matrices[thread][column].bits =
        static_cast<std::uint16_t>(thread / warp_size * 0x1000 + thread % warp_size * 0x10 + column);
  sync_warp();
  const bf16(*rows)[8] = s.matrices + thread / warp_size * warp_size;
  const int lane = thread % warp_size;
  for (int order = 0; order < 2; ++order) {
    const bf16* row = rows[order == 0 ? lane : (lane * 11 + 5) % 32];
    std::uint32_t r[4];
    load_matrix_x4(r, row);
    for (int i = 0; i < 4; ++i) out.word(r[i]);
    load_matrix_x4_transposed(r, row);
    for (int i = 0; i < 4; ++i) out.word(r[i]);
  }
}

// Small integers that differ by register, half and thread.
WUNENG_DEVICE float conformance_integer(int thread, int i) {
  return static_cast<float>((thread * 37 + i * 101) % 61 - 30);
}

// 8 rows: a product on zero, a second one with other operands added to it.
WUNENG_DEVICE void conform_products(ConformanceOutput& out, int thread) {
  float c[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  for (int pass = 0; pass < 2; ++pass) {
    std::uint32_t a[4], b[2];
    for (int i = 0; i < 4; ++i)
      a[i] = pack_bf16(conformance_integer(thread, pass * 12 + 2 * i),
                       conformance_integer(thread, pass * 12 + 2 * i + 1));
    for (int i = 0; i < 2; ++i)
      b[i] = pack_bf16(conformance_integer(thread, pass * 12 + 8 + 2 * i),
                       conformance_integer(thread, pass * 12 + 9 + 2 * i));
    mma_bf16(c, a, b[0], b[1]);
    for (int i = 0; i < 4; ++i) out.number(c[i]);
  }
}

// 24 rows. Three groups: the first two waited for while the last is under way, a third of the copies of the
// last one zeros; then the neighbour's data after a barrier.
WUNENG_DEVICE void conform_copies(ConformanceOutput& out, ConformanceShared& s, int thread) {
  for (int i = 0; i < 3; ++i) {
    copy_async_16(s.copies[i][thread], conformance_copies.words[i][thread], i < 2 || thread % 3 != 0);
    copy_async_commit();
  }
  copy_async_wait<1>();
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 4; ++j) out.word(s.copies[i][thread][j]);
  copy_async_wait<0>();
  for (int j = 0; j < 4; ++j) out.word(s.copies[2][thread][j]);
  sync_block();
  for (int i = 0; i < 3; ++i)
    for (int j = 0; j < 4; ++j) out.word(s.copies[i][(thread + 33) % conformance_threads][j]);
}

// Ties, neighbours of ties, the ends of the range, infinities, NaN and subnormals; the rest by a rule.
__device__ const std::uint32_t conformance_special[16] = {
    0x00000000u, 0x80000000u, 0x3f808000u, 0x3f818000u, 0x3f807fffu, 0x3f808001u, 0xbf808000u, 0xbf818000u,
    0x7f7fffffu, 0xff7fffffu, 0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc12345u, 0x000116c2u, 0x00808000u};
WUNENG_DEVICE std::uint32_t conformance_bits(int thread) {
  return thread < 16 ? conformance_special[thread]
                     : 0x3e000000u + 0x0123457u * static_cast<std::uint32_t>(thread);
}

// 32 rows. Powers of two are exact for integers; for 64ths they are so after rounding to bf16.
WUNENG_DEVICE void conform_numbers(ConformanceOutput& out, int thread) {
  const std::uint32_t bits = conformance_bits(thread);
  const std::uint32_t other = conformance_bits((thread + 17) % conformance_threads);
  const float x = bits_to_float(bits);
  const std::uint32_t pair = pack_bf16(x, bits_to_float(other));
  out.number(x);
  out.word(pair);
  out.number(low_half(pair));
  out.number(high_half(pair));
  out.word(to_bf16(x).bits);
  out.number(to_float(bf16{static_cast<std::uint16_t>(bits >> 16)}));
  for (int i = 0; i < 6; ++i) out.number(exp2_approx(static_cast<float>(thread + 64 * i - 192)));
  for (int i = 0; i < 20; ++i)
    out.word(pack_bf16(exp2_approx(static_cast<float>(thread + 64 * i - 1216) / 64), 0.0f));
}

// budget conformance: registers 40, HMMA 2
// One block of conformance_threads; dynamic shared memory: ConformanceShared.
__global__ void __launch_bounds__(conformance_threads) conformance(std::uint32_t* words) {
  auto& s = shared_memory<ConformanceShared>();
  const int thread = static_cast<int>(threadIdx.x);
  ConformanceOutput out{words + thread};
  conform_shuffles(out, thread);
  conform_barriers(out, s, thread);
  conform_matrix_loads(out, s, thread);
  conform_products(out, thread);
  conform_copies(out, s, thread);
  conform_numbers(out, thread);
}

}  // namespace wuneng::device
