// The kernel of slice_sum.h.
#pragma once

#include "kernels/device/elements.cuh"

namespace wuneng::device {

constexpr int slice_sum_columns = 32;  // of a block: one per lane, so that loads are of whole lines
constexpr int slice_sum_strides = 8;   // warps of a block; warp w adds slices w, w + 8, ...

struct SliceSums {
  float sum[slice_sum_strides][slice_sum_columns];
};

// Grid: columns / 32.
//
// budget slice_sum<float>: registers 40
// budget slice_sum<bf16>: registers 40
template <class Element>
__global__ void __launch_bounds__(slice_sum_columns* slice_sum_strides)
    slice_sum(const float* partial, std::int64_t slices, std::int64_t columns, Element* out) {
  const int lane = threadIdx.x % slice_sum_columns, warp = threadIdx.x / slice_sum_columns;
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * slice_sum_columns + lane;
  auto& shared = shared_memory<SliceSums>();
  float sum = 0.0f;
  if (column < columns)
    for (std::int64_t s = warp; s < slices; s += slice_sum_strides) sum += partial[s * columns + column];
  shared.sum[warp][lane] = sum;
  sync_block();
  if (warp > 0 || column >= columns) return;
  for (int w = 1; w < slice_sum_strides; ++w) sum += shared.sum[w][lane];
  store_element(out + column, sum);
}

}  // namespace wuneng::device
