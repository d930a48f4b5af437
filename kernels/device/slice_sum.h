// The second half of a deterministic sum over tokens on CUDA: kernels leave one partial sum per slice of the
// tokens, a partition that depends on the shapes alone, and this adds the slices in a fixed order.
#pragma once

#include <cstdint>

namespace wuneng::device {

struct bf16;

// out [columns] = the sum over the first dimension of partial [slices, columns], zeros when there is no
// slice. Element is float or bf16. Returns 0 or the cudaError_t of a launch that failed.
template <class Element>
int slice_sum_cuda(const float* partial, std::int64_t slices, std::int64_t columns, Element* out,
                   void* stream);

}  // namespace wuneng::device
