// The primitives of kernels/device/warp.cuh as the PTX ISA defines them.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "kernels/device/warp.cuh"
#include "tests/emulator/checker.h"
#include "tests/emulator/machine.h"
#include "tests/emulator/memory.h"

namespace wuneng::device {
namespace {

using emulator::checker;
using emulator::Copy;
using emulator::Machine;
using emulator::Primitive;
using emulator::warp_lanes;

// ------------------------------------------------------------------------ lanes ----

struct Exchange {
  float value;
  int source;
  float result;
};

// Lane `source` lends its value; a source outside the warp is the lane's own.
float exchange(Primitive primitive, float x, int source) {
  Machine& m = Machine::running();
  if (source < 0 || source >= warp_lanes) source = m.lane();
  Exchange mine{x, source, 0.0f};
  m.collective(primitive, mine, [](auto of) {
    for (int lane = 0; lane < warp_lanes; ++lane) of(lane).result = of(of(lane).source).value;
  });
  return mine.result;
}

// ----------------------------------------------------------------- matrix loads ----

struct MatrixLoad {
  const bf16* row;
  std::uint32_t* registers;
};

// Extra passes of the four loads of 8 rows: rows that share a group of four banks are read one after another.
int bank_conflicts(const std::array<std::uintptr_t, warp_lanes>& rows) {
  int extra = 0;
  for (int matrix = 0; matrix < 4; ++matrix) {
    int most = 0, rows_in_group[8] = {};
    for (int i = 0; i < 8; ++i) {
      const std::uintptr_t row = rows[matrix * 8 + i];
      bool seen = false;  // equal addresses are one read
      for (int j = 0; j < i; ++j) seen |= rows[matrix * 8 + j] == row;
      if (!seen) most = std::max(most, ++rows_in_group[row / 16 % 8]);
    }
    extra += most - 1;
  }
  return extra;
}

template <class Of>
void load_matrices(Of of, bool transposed) {
  std::uint16_t matrices[4][8][8];
  for (int lane = 0; lane < warp_lanes; ++lane) std::memcpy(matrices[lane / 8][lane % 8], of(lane).row, 16);
  for (int lane = 0; lane < warp_lanes; ++lane) {
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const auto& x = matrices[i];
      const std::uint32_t low = transposed ? x[2 * t][g] : x[g][2 * t];
      const std::uint32_t high = transposed ? x[2 * t + 1][g] : x[g][2 * t + 1];
      of(lane).registers[i] = low | high << 16;
    }
  }
}

void load_matrix(Primitive primitive, std::uint32_t* registers, const bf16* row, void* site) {
  Machine& m = Machine::running();
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) m.fail(primitive, "the row is not 16-byte aligned");
  if (!m.in_shared(row, 16)) m.fail(primitive, "the row is not within shared memory");
  MatrixLoad mine{row, registers};
  m.collective(primitive, mine, [&](auto of) {
    std::array<std::uintptr_t, warp_lanes> rows;
    for (int lane = 0; lane < warp_lanes; ++lane) {
      rows[lane] = reinterpret_cast<std::uintptr_t>(of(lane).row);
      if (checker()) checker()->matrix_read(m.warp(), of(lane).row, 16, site);
    }
    m.statistics().bank_conflicts += bank_conflicts(rows);
    ++m.statistics().matrix_loads;
    load_matrices(of, primitive == Primitive::load_matrix_x4_transposed);
  });
}

// --------------------------------------------------------------------- products ----

struct Product {
  float* c;
  const std::uint32_t* a;
  std::uint32_t b[2];
};

// Products of bf16 are exact in fp32; the sums are taken in order of k, where the tensor core has an order
// and a rounding of its own.
template <class Of>
void multiply(Of of) {
  using Row = float __attribute__((vector_size(32)));  // 8 columns
  float a[16][16];
  Row b[16], c[16];
  for (int lane = 0; lane < warp_lanes; ++lane) {
    const Product& p = of(lane);
    const int g = lane / 4, t = lane % 4;
    for (int half = 0; half < 2; ++half) {
      const auto value = [half](std::uint32_t pair) { return half ? high_half(pair) : low_half(pair); };
      for (int i = 0; i < 4; ++i) a[g + i % 2 * 8][2 * t + i / 2 * 8 + half] = value(p.a[i]);
      for (int i = 0; i < 2; ++i) b[2 * t + i * 8 + half][g] = value(p.b[i]);
    }
    for (int i = 0; i < 4; ++i) c[g + i / 2 * 8][2 * t + i % 2] = p.c[i];
  }
  for (int m = 0; m < 16; ++m) {
    Row sum = c[m];
    for (int k = 0; k < 16; ++k) sum += a[m][k] * b[k];
    c[m] = sum;
  }
  for (int lane = 0; lane < warp_lanes; ++lane)
    for (int i = 0; i < 4; ++i) of(lane).c[i] = c[lane / 4 + i / 2 * 8][2 * (lane % 4) + i % 2];
}

// ----------------------------------------------------------- asynchronous copies ----

void land(Machine& m, const Copy& copy) {
  if (copy.global != nullptr)
    std::memcpy(copy.shared, copy.global, 16);
  else
    std::memset(copy.shared, 0, 16);
  if (checker()) checker()->copy_landed(m.thread(), copy.shared);
}

// Nearest, ties to even; NaN becomes the canonical one.
std::uint32_t round_bf16(float x) {
  if (std::isnan(x)) return 0x7fff;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace

void* shared_memory_bytes(std::size_t size) {
  Machine& m = Machine::running();
  if (size > m.shared_bytes())
    m.fail(Primitive::shared_memory, "the kernel needs " + std::to_string(size) + " bytes, launched with " +
                                         std::to_string(m.shared_bytes()));
  return m.shared();
}

void sync_block() { Machine::running().sync_block(); }

void sync_warp() {
  Machine& m = Machine::running();
  int unused = 0;
  m.collective(Primitive::sync_warp, unused, [&](auto) {
    ++m.statistics().warp_barriers;
    if (checker()) checker()->sync_warp(m.warp());
  });
}

// Only the low five bits of a mask, delta or lane count.
float shuffle_xor(float x, int mask) {
  return exchange(Primitive::shuffle_xor, x, Machine::running().lane() ^ (mask & 31));
}
float shuffle_down(float x, int delta) {
  return exchange(Primitive::shuffle_down, x, Machine::running().lane() + (delta & 31));
}
float shuffle_up(float x, int delta) {
  return exchange(Primitive::shuffle_up, x, Machine::running().lane() - (delta & 31));
}
float shuffle(float x, int lane) { return exchange(Primitive::shuffle, x, lane & 31); }

void load_matrix_x4(std::uint32_t (&r)[4], const bf16* row) {
  load_matrix(Primitive::load_matrix_x4, r, row, __builtin_return_address(0));
}
void load_matrix_x4_transposed(std::uint32_t (&r)[4], const bf16* row) {
  load_matrix(Primitive::load_matrix_x4_transposed, r, row, __builtin_return_address(0));
}

void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  Machine& m = Machine::running();
  Product mine{c, a, {b0, b1}};
  m.collective(Primitive::mma_bf16, mine, [&](auto of) {
    ++m.statistics().products;
    multiply(of);
  });
}

void copy_async_16(void* shared, const void* global, bool valid) {
  Machine& m = Machine::running();
  const auto misaligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 != 0; };
  if (misaligned(shared)) m.fail(Primitive::copy_async_16, "the shared address is not 16-byte aligned");
  if (misaligned(global)) m.fail(Primitive::copy_async_16, "the global address is not 16-byte aligned");
  if (!m.in_shared(shared, 16))
    m.fail(Primitive::copy_async_16, "the destination is not within shared memory");
  if (valid && emulator::touches_guard(global, 16))
    m.fail(Primitive::copy_async_16, "the source is outside of its tensor");
  if (checker())
    checker()->copy_issued(m.thread(), shared, valid ? global : nullptr, __builtin_return_address(0));
  std::memset(shared, 0xff, 16);
  m.self().copies.push_back({static_cast<std::byte*>(shared),
                             valid ? static_cast<const std::byte*>(global) : nullptr, m.self().open_group});
  ++m.statistics().copies;
}

void copy_async_commit() {
  Machine& m = Machine::running();
  ++m.self().open_group;
  m.maybe_yield();
}

void copy_async_wait_pending(int pending) {
  Machine& m = Machine::running();
  auto& copies = m.self().copies;
  const auto end = std::find_if(copies.begin(), copies.end(), [&](const Copy& copy) {
    return copy.group >= m.self().open_group - pending;
  });
  for (auto copy = copies.begin(); copy != end; ++copy) land(m, *copy);
  copies.erase(copies.begin(), end);
  m.maybe_yield();
}

float exp2_approx(float x) {
  const float y = std::exp2(x);
  return y < std::numeric_limits<float>::min() ? 0.0f : y;  // .ftz
}
std::uint32_t pack_bf16(float low, float high) { return round_bf16(low) | round_bf16(high) << 16; }
float bits_to_float(std::uint32_t x) { return std::bit_cast<float>(x); }

}  // namespace wuneng::device
