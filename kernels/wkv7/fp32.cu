#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/wkv7/cuda.h"
#include "kernels/wkv7/fp32.cuh"

namespace wuneng::kernels {
namespace {

// Blocks that are ever under way at once on the largest devices; more would only need more workspace.
unsigned blocks_of(const Wkv7Chunks& chunks, int H) {
  return static_cast<unsigned>(std::min<std::int64_t>(static_cast<std::int64_t>(chunks.sequences) * H, 1024));
}

template <int N, class... Parameters, class... Args>
int launch(void (*kernel)(Parameters...), const Wkv7Chunks& chunks, int H, void* stream,
           const Args&... args) {
  constexpr int shared = static_cast<int>(sizeof(Fp32Shared<N>));
  const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (error != cudaSuccess) return error;
  kernel<<<blocks_of(chunks, H), fp32_threads, shared, static_cast<cudaStream_t>(stream)>>>(chunks, H,
                                                                                            args...);
  return cudaGetLastError();
}

template <int N>
int forward(const Wkv7Chunks& chunks, int H, const Wkv7CudaInputs<float>& in, float* y, float* final_state,
            float* kept_states, void* workspace, void* stream) {
  auto* spans = static_cast<typename Fp32Chunks<N>::Span*>(workspace);
  return launch<N>(wkv7_fp32_forward<N>, chunks, H, stream, in, y, final_state, kept_states, spans);
}

template <int N>
int backward(const Wkv7Chunks& chunks, int H, const Wkv7CudaInputs<float>& in, const float* kept_states,
             const float* grad_y, const float* grad_final_state, const Wkv7CudaGradients<float>& out,
             void* workspace, void* stream) {
  auto* spans = static_cast<typename Fp32Chunks<N>::Span*>(workspace);
  return launch<N>(wkv7_fp32_backward<N>, chunks, H, stream, in, kept_states, grad_y, grad_final_state, out,
                   spans);
}

}  // namespace

std::size_t wkv7_cuda_fp32_workspace(const Wkv7Chunks& chunks, int H, int N) {
  return blocks_of(chunks, H) * (N == 64 ? sizeof(Fp32Chunks<64>::Span) : sizeof(Fp32Chunks<128>::Span));
}

int wkv7_cuda_fp32_forward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<float>& in, float* y,
                           float* final_state, float* kept_states, void* workspace, void* stream) {
  return N == 64 ? forward<64>(chunks, H, in, y, final_state, kept_states, workspace, stream)
                 : forward<128>(chunks, H, in, y, final_state, kept_states, workspace, stream);
}

int wkv7_cuda_fp32_backward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<float>& in,
                            const float* kept_states, const float* grad_y, const float* grad_final_state,
                            const Wkv7CudaGradients<float>& out, void* workspace, void* stream) {
  return N == 64
             ? backward<64>(chunks, H, in, kept_states, grad_y, grad_final_state, out, workspace, stream)
             : backward<128>(chunks, H, in, kept_states, grad_y, grad_final_state, out, workspace, stream);
}

}  // namespace wuneng::kernels
