#include "kernels/device/slice_sum.h"

#include <cuda_runtime.h>

#include "kernels/device/slice_sum.cuh"

namespace wuneng::device {

template <class Element>
int slice_sum_cuda(const float* partial, std::int64_t slices, std::int64_t columns, Element* out,
                   void* stream) {
  if (columns == 0) return 0;
  const auto blocks = static_cast<unsigned>((columns + slice_sum_columns - 1) / slice_sum_columns);
  slice_sum<<<blocks, slice_sum_columns * slice_sum_strides, sizeof(SliceSums),
              static_cast<cudaStream_t>(stream)>>>(partial, slices, columns, out);
  return cudaGetLastError();
}

template int slice_sum_cuda(const float*, std::int64_t, std::int64_t, float*, void*);
template int slice_sum_cuda(const float*, std::int64_t, std::int64_t, bf16*, void*);

}  // namespace wuneng::device
