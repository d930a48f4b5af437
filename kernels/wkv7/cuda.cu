#include "kernels/wkv7/cuda.h"

#include <cuda_runtime.h>

#include "kernels/wkv7/passes.cuh"

namespace wuneng::kernels {
namespace {

// Launches on a stream.
struct DeviceLaunch {
  cudaStream_t stream;

  template <class Arguments>
  int operator()(void (*kernel)(Arguments), const LaunchSize& size, const Arguments& arguments) const {
    const int bytes = static_cast<int>(size.shared_bytes);
    // More than 48 KiB must be asked for.
    if (const cudaError_t error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes))
      return error;
    kernel<<<dim3(size.grid_x, size.grid_y), size.threads, size.shared_bytes, stream>>>(arguments);
    return cudaGetLastError();
  }
};

}  // namespace

std::size_t wkv7_cuda_forward_workspace(const Wkv7Chunks& chunks, int H, int N) {
  return N == 64 ? forward_workspace<64>(chunks, H) : forward_workspace<128>(chunks, H);
}

std::size_t wkv7_cuda_backward_workspace(const Wkv7Chunks& chunks, int H, int N) {
  return N == 64 ? backward_workspace<64>(chunks, H) : backward_workspace<128>(chunks, H);
}

int wkv7_cuda_forward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<Bf16>& in, Bf16* y,
                      float* final_state, Bf16* states, void* workspace, void* stream) {
  const DeviceLaunch launch{static_cast<cudaStream_t>(stream)};
  if (N == 64) return forward_pass<64>(launch, chunks, H, in, y, final_state, states, workspace);
  if (N == 128) return forward_pass<128>(launch, chunks, H, in, y, final_state, states, workspace);
  return cudaErrorInvalidValue;
}

int wkv7_cuda_backward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<Bf16>& in,
                       const Bf16* states, const Bf16* grad_y, const float* grad_final_state,
                       const Wkv7CudaGradients<Bf16>& out, void* workspace, void* stream) {
  const DeviceLaunch launch{static_cast<cudaStream_t>(stream)};
  if (N == 64)
    return backward_pass<64>(launch, chunks, H, in, states, grad_y, grad_final_state, out, workspace);
  if (N == 128)
    return backward_pass<128>(launch, chunks, H, in, states, grad_y, grad_final_state, out, workspace);
  return cudaErrorInvalidValue;
}

}  // namespace wuneng::kernels
