// How a checked operator reaches its launchers on CUDA. In a build without CUDA check_input() has refused the
// tensors, and no launcher is referred to.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <vector>

#include "common/check.h"
#include "kernels/device/slice_sum.h"

#ifdef WUNENG_WITH_CUDA
#include <c10/core/DeviceGuard.h>
#include <c10/cuda/CUDAStream.h>
#endif

namespace wuneng::kernels {

// The first element, or null for a tensor that is not there.
template <class Element>
const Element* input(const at::Tensor& x) {
  return x.defined() ? static_cast<const Element*>(x.const_data_ptr()) : nullptr;
}
template <class Element>
Element* output(const at::Tensor& x) {
  return x.defined() ? static_cast<Element*>(x.mutable_data_ptr()) : nullptr;
}

// launch.operator()<Element>(stream) for the dtype of x, on its device and that device's current stream.
template <class Launch>
void cuda_launch(const char* op, const at::Tensor& x, [[maybe_unused]] const Launch& launch) {
#ifdef WUNENG_WITH_CUDA
  const c10::DeviceGuard guard(x.device());
  void* stream = c10::cuda::getCurrentCUDAStream().stream();
  const int status = x.scalar_type() == at::kFloat ? launch.template operator()<float>(stream)
                                                   : launch.template operator()<device::bf16>(stream);
  WN_CHECK(status == 0, "{}: could not be launched on {}: {}", op, x.device().str(),
           cudaGetErrorString(static_cast<cudaError_t>(status)));
#else
  throw Error(fmt::format("{}: {} in a build without CUDA", op, x.device().str()));
#endif
}

// Partial sums [slices, shape] for the kernels to fill, fp32 on the device of x.
inline at::Tensor empty_partial(std::int64_t slices, at::IntArrayRef shape, const at::Tensor& x) {
  std::vector<std::int64_t> sizes{slices};
  sizes.insert(sizes.end(), shape.begin(), shape.end());
  return at::empty(sizes, x.options().dtype(at::kFloat));
}

// Their sum over the slices in a fixed order, in the dtype of x.
inline at::Tensor sum_slices(const char* op, const at::Tensor& partial, const at::Tensor& x) {
  const at::Tensor sum = at::empty(partial.sizes().slice(1), x.options());
  cuda_launch(op, x, [&]<class Element>(void* stream) {
    return device::slice_sum_cuda(input<float>(partial), partial.size(0), sum.numel(), output<Element>(sum),
                                  stream);
  });
  return sum;
}

}  // namespace wuneng::kernels
