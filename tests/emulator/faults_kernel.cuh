// A small kernel with everything in it that kernels do, and a fault to plant: the proof of the emulator.
//
// out = (a b) d - row maximum + bias, for a [rows, 64], b [64, 32], d [16, 16], bias [32], out [rows, 32];
// two blocks of 16 columns, rows <= 32. A ring of two stages filled by asynchronous copies, matrix loads,
// products, a tile passed through shared memory to a second product, shuffles, and a staged 16-byte store.
#pragma once

#include "kernels/device/warp.cuh"

namespace wuneng::emulator {

enum class Fault {
  none,
  // barriers
  no_barrier_after_wait,
  no_barrier_before_reuse,
  no_barrier_before_bias,
  barrier_skipped_by_a_warp,
  no_sync_warp_before_rows,
  no_sync_warp_before_matrix_load,
  // asynchronous copies
  wait_removed,
  wait_for_too_few,
  wait_after_barrier,
  commit_forgotten,
  last_group_not_waited_for,
  copy_left_at_exit,
  prefetch_before_barrier,
  prefetch_into_stage_in_use,
  copy_not_masked,
  copy_mask_inverted,
  copy_of_the_wrong_row,
  misaligned_copy,
  // fragments
  a_rows_and_columns_swapped,
  a_registers_swapped,
  b_registers_swapped,
  b_column_blocks_swapped,
  b_not_transposed,
  accumulator_row_wrong,
  accumulator_column_wrong,
  accumulator_not_cleared,
  second_operand_swapped,
  shuffle_wrong_lane,
  shuffle_down_for_xor,
  misaligned_matrix_row,
  matrix_row_outside,
  // shared memory
  shared_write_past_end,
  shared_write_before_start,
  shared_read_past_end,
  shared_too_small,
  pad_read,
  bias_element_not_written,
  staging_of_the_other_warp,
  written_twice,
  // tensors
  store_mask_one_too_many,
  store_mask_one_too_few,
  bias_read_past_end,
  write_before_start,
  output_read_before_written,
  blocks_write_the_same,
  misaligned_store,
  // divergence
  divergent_barrier,
  divergent_sync_warp,
  divergent_product,
  different_collectives,
  early_return,
  // no wrong result: the statistics tell
  rows_without_padding,
  barrier_too_many,
  count,
};

constexpr int fault_threads = 64, fault_columns = 32, fault_inner = 64, fault_stages = fault_inner / 16;

struct FaultProblem {
  Fault fault;
  const device::bf16 *a, *b, *d;
  const float* bias;
  float* out;
  int rows;
  WUNENG_DEVICE bool has(Fault f) const { return fault == f; }
};

struct FaultShared {
  alignas(16) device::bf16 a[2 * 32 * 24];  // two stages; rows of 48 bytes lie in distinct banks
  alignas(16) device::bf16 b[2 * 16 * 24];
  alignas(16) device::bf16 tile[2][16 * 24];  // per warp
  alignas(16) float staging[2][16 * 20];      // per warp
  float bias[16];
};

struct alignas(16) FaultVector {
  float x[4];
};

struct FaultPlace {
  int thread, warp, lane, group, in_group, column;  // column: the block's first
};

WUNENG_DEVICE int fault_stride(const FaultProblem& p) { return p.has(Fault::rows_without_padding) ? 16 : 24; }

WUNENG_DEVICE void fault_copy(const FaultProblem& p, FaultShared& s, const FaultPlace& at, int stage,
                              int buffer) {
  const int row = at.thread / 2, piece = at.thread % 2 * 8;
  bool valid = row < p.rows;
  if (p.has(Fault::copy_mask_inverted)) valid = !valid;
  if (p.has(Fault::copy_not_masked)) valid = true;
  int source = row < p.rows ? row : 0;
  if (p.has(Fault::copy_not_masked)) source = row;
  if (p.has(Fault::copy_of_the_wrong_row)) source = (source + 1) % p.rows;
  const int shift = p.has(Fault::misaligned_copy) ? 2 : 0;
  device::copy_async_16(s.a + (buffer * 32 + row) * fault_stride(p) + piece + shift,
                        p.a + source * fault_inner + stage * 16 + piece, valid);
  if (at.warp == 0)
    device::copy_async_16(s.b + (buffer * 16 + row) * fault_stride(p) + piece,
                          p.b + (stage * 16 + row) * fault_columns + at.column + piece, true);
}

WUNENG_DEVICE void fault_multiply(const FaultProblem& p, FaultShared& s, const FaultPlace& at, int buffer,
                                  float (&sum)[2][4]) {
  const int l = at.lane, stride = fault_stride(p);
  const bool swapped = p.has(Fault::a_rows_and_columns_swapped);
  const int row = swapped ? l % 8 + l / 16 * 8 : l % 16, k = swapped ? l / 8 % 2 * 8 : l / 16 * 8;
  const device::bf16* a_row = s.a + (buffer * 32 + at.warp * 16 + row) * stride + k;
  if (p.has(Fault::misaligned_matrix_row)) a_row += 1;
  if (p.has(Fault::matrix_row_outside)) a_row += sizeof(FaultShared);
  const device::bf16* b_row = s.b + (buffer * 16 + l % 16) * stride + l / 16 * 8;
  std::uint32_t a[4], b[4];
  device::load_matrix_x4(a, a_row);
  if (p.has(Fault::b_not_transposed))
    device::load_matrix_x4(b, b_row);
  else
    device::load_matrix_x4_transposed(b, b_row);
  if (p.has(Fault::a_registers_swapped)) {
    const std::uint32_t a1 = a[1];
    a[1] = a[2];
    a[2] = a1;
  }
  if (p.has(Fault::divergent_product) && l == 7) return;
  const int first = p.has(Fault::b_registers_swapped) ? 1 : 0,
            block = p.has(Fault::b_column_blocks_swapped) ? 2 : 0;
  device::mma_bf16(sum[0], a, b[block + first], b[block + 1 - first]);
  device::mma_bf16(sum[1], a, b[2 - block + first], b[3 - block - first]);
}

// The ring: copy stage i + 1 while stage i is multiplied.
WUNENG_DEVICE void fault_ring(const FaultProblem& p, FaultShared& s, const FaultPlace& at,
                              float (&sum)[2][4]) {
  fault_copy(p, s, at, 0, 0);
  device::copy_async_commit();
  for (int stage = 0; stage < fault_stages; ++stage) {
    const bool last = stage + 1 == fault_stages, copied = p.has(Fault::prefetch_before_barrier) && stage > 0;
    const int next = p.has(Fault::prefetch_into_stage_in_use) ? stage % 2 : (stage + 1) % 2;
    if (!last && !copied) fault_copy(p, s, at, stage + 1, next);
    const bool omit = p.has(Fault::commit_forgotten) || (p.has(Fault::last_group_not_waited_for) && last);
    if (!omit) device::copy_async_commit();
    if (p.has(Fault::wait_after_barrier)) device::sync_block();
    if (p.has(Fault::wait_for_too_few))
      device::copy_async_wait<2>();
    else if (!p.has(Fault::wait_removed) || last)
      device::copy_async_wait<1>();
    const bool skips = p.has(Fault::barrier_skipped_by_a_warp) && stage == 1 && at.warp == 1;
    if (!p.has(Fault::no_barrier_after_wait) && !p.has(Fault::wait_after_barrier) && !skips)
      device::sync_block();
    fault_multiply(p, s, at, stage % 2, sum);
    if (p.has(Fault::prefetch_before_barrier) && stage + 2 < fault_stages)
      fault_copy(p, s, at, stage + 2, stage % 2);
    if (!p.has(Fault::no_barrier_before_reuse)) device::sync_block();
  }
}

// sum becomes sum d: the sums are passed through a tile in shared memory to the other lanes.
WUNENG_DEVICE void fault_second_product(const FaultProblem& p, FaultShared& s, const FaultPlace& at,
                                        float (&sum)[2][4]) {
  device::bf16* tile = s.tile[at.warp];
  for (int j = 0; j < 2; ++j)
    for (int half = 0; half < 2; ++half) {
      const int row = at.group + half * (p.has(Fault::accumulator_row_wrong) ? 7 : 8);
      const int pair = p.has(Fault::accumulator_column_wrong) ? 3 - at.in_group : at.in_group;
      tile[row * 24 + j * 8 + 2 * pair] = device::to_bf16(sum[j][2 * half]);
      tile[row * 24 + j * 8 + 2 * pair + 1] = device::to_bf16(sum[j][2 * half + 1]);
    }
  if (!p.has(Fault::no_sync_warp_before_matrix_load)) device::sync_warp();
  std::uint32_t a[4];
  device::load_matrix_x4(a, tile + at.lane % 16 * 24 + at.lane / 16 * 8);
  for (int j = 0; j < 2; ++j) {
    std::uint32_t b[2];
    for (int i = 0; i < 2; ++i) {
      const int k = 2 * at.in_group + 8 * i, n = 8 * j + at.group;
      const auto element = [&](int row, int column) -> std::uint32_t {
        return p.d[p.has(Fault::second_operand_swapped) ? column * 16 + row : row * 16 + column].bits;
      };
      b[i] = element(k, n) | element(k + 1, n) << 16;
    }
    float product[4];
    if (!p.has(Fault::accumulator_not_cleared))
      for (float& x : product) x = 0.0f;
    device::mma_bf16(product, a, b[0], b[1]);
    for (int i = 0; i < 4; ++i) sum[j][i] = product[i];
  }
}

WUNENG_DEVICE float fault_row_maximum(const FaultProblem& p, const FaultPlace& at, const float (&sum)[2][4],
                                      int half) {
  float x = sum[0][2 * half];
  const auto include = [&x](float y) { x = y > x ? y : x; };
  include(sum[0][2 * half + 1]);
  include(sum[1][2 * half]);
  include(sum[1][2 * half + 1]);
  if (p.has(Fault::different_collectives) && at.lane % 2 == 1) return device::shuffle_up(x, 1);
  include(device::shuffle_xor(x, 1));
  if (p.has(Fault::shuffle_down_for_xor))
    include(device::shuffle_down(x, 2));
  else
    include(device::shuffle_xor(x, p.has(Fault::shuffle_wrong_lane) ? 4 : 2));
  return x;
}

WUNENG_DEVICE void fault_bias(const FaultProblem& p, FaultShared& s, const FaultPlace& at) {
  int wanted = p.has(Fault::bias_element_not_written) ? 15 : 16;
  if (p.has(Fault::shared_write_past_end)) wanted = 17;
  const int t = at.thread;
  if (t < wanted) {
    const int source = at.column + (t < 16 ? t : 0);
    s.bias[t] = p.bias[source + (p.has(Fault::bias_read_past_end) && source == 31 ? 1 : 0)];
  }
  if (p.has(Fault::written_twice) && t == 32) s.bias[0] = p.bias[at.column];
  if (p.has(Fault::shared_write_before_start) && t == 0) s.a[-1 - at.group].bits = 0;
  if (!p.has(Fault::no_barrier_before_bias)) device::sync_block();
}

// Rows through shared memory, so that each lane stores 16 bytes at a time.
WUNENG_DEVICE void fault_store(const FaultProblem& p, FaultShared& s, const FaultPlace& at,
                               const float (&sum)[2][4]) {
  float* staging = s.staging[p.has(Fault::staging_of_the_other_warp) ? 0 : at.warp];
  for (int half = 0; half < 2; ++half) {
    const float maximum = fault_row_maximum(p, at, sum, half);
    for (int j = 0; j < 2; ++j)
      for (int i = 0; i < 2; ++i)
        staging[(at.group + 8 * half) * 20 + j * 8 + 2 * at.in_group + i] = sum[j][2 * half + i] - maximum;
  }
  if (p.has(Fault::divergent_sync_warp) && at.lane >= 16) return;
  if (!p.has(Fault::no_sync_warp_before_rows)) device::sync_warp();
  const int row = at.lane / 2, first = at.lane % 2 * 8, out_row = at.warp * 16 + row;
  int stored = p.rows;
  if (p.has(Fault::store_mask_one_too_many)) stored += 1;
  if (p.has(Fault::store_mask_one_too_few)) stored -= 1;
  if (out_row >= stored) return;
  const int column = p.has(Fault::blocks_write_the_same) ? 0 : at.column;
  float* out = p.out + out_row * fault_columns + column + first;
  if (p.has(Fault::misaligned_store)) out += 1;
  for (int i = 0; i < 8; i += 4) {
    FaultVector v;
    for (int j = 0; j < 4; ++j) {
      const int c = first + i + j;
      const int bias = p.has(Fault::shared_read_past_end) && c == 15 ? 16 : c;
      v.x[j] = staging[row * 20 + (p.has(Fault::pad_read) && c == 15 ? 16 : c)] + s.bias[bias];
      if (p.has(Fault::output_read_before_written)) v.x[j] += out[i + j];
    }
    *reinterpret_cast<FaultVector*>(out + i) = v;
  }
}

__global__ void __launch_bounds__(fault_threads) faulty(FaultProblem p) {
  auto& s = device::shared_memory<FaultShared>();
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const FaultPlace at{thread, thread / 32, lane, lane / 4, lane % 4, static_cast<int>(blockIdx.x) * 16};
  if (p.has(Fault::early_return) && thread == 63) return;
  float sum[2][4] = {};
  fault_ring(p, s, at, sum);
  if (p.has(Fault::barrier_too_many)) device::sync_block();
  if (p.has(Fault::divergent_barrier) && lane < 16) device::sync_block();
  if (p.has(Fault::copy_left_at_exit) && thread == 0) device::copy_async_16(s.a, p.a, true);
  fault_second_product(p, s, at, sum);
  fault_bias(p, s, at);
  fault_store(p, s, at, sum);
  if (p.has(Fault::write_before_start) && thread == 0 && at.column == 0) p.out[-1 - at.group] = 0.0f;
}

}  // namespace wuneng::emulator
