// The backward pass on the CPU: the chunked form, which is small matrix products only.
#include <memory>

#include "kernels/wkv7/cpu.h"
#include "kernels/wkv7/tile_cpu.h"

namespace wuneng::kernels {
namespace {

// Fewer tokens are fewer multiplications inside a chunk and more passes over the state: 8 was faster than 16
// and 32. A vector holds no more lanes than a chunk has tokens.
template <class Backend>
constexpr int chunk_tokens = Backend::lanes > 8 ? Backend::lanes : 8;

template <class Backend, int N, class T>
void backward_sequence(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* kept_states, const T* grad_y,
                       const T* grad_final_state, const Wkv7GradientOutputs<T>& out) {
  using Chunks = chunk::Algorithm<Backend, N, chunk_tokens<Backend>>;
  struct alignas(64) Memory {
    typename Chunks::Span span;
    typename Chunks::ChunkWork work;
  };
  static_assert(Chunks::span_tokens == wkv7_kept_tokens);
  thread_local const auto memory =
      std::make_unique_for_overwrite<Memory>();  // fresh pages cost more than the sums
  Chunks::backward_sequence({in.r, in.log_decay, in.k, in.v, in.a, in.b}, sizes.H * N, sizes.T,
                            in.initial_state, kept_states, grad_y, grad_final_state,
                            {out.r, out.log_decay, out.k, out.v, out.a, out.b}, out.initial_state,
                            memory->span, memory->work);
}

template <class Backend, class T>
void backward_sized(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* kept_states, const T* grad_y,
                    const T* grad_final_state, const Wkv7GradientOutputs<T>& out) {
  if (sizes.N == 64)
    backward_sequence<Backend, 64>(in, sizes, kept_states, grad_y, grad_final_state, out);
  else
    backward_sequence<Backend, 128>(in, sizes, kept_states, grad_y, grad_final_state, out);
}

WUNENG_TILE_BACKEND(PortableTiles, , 16, 16)
#if defined(__x86_64__)
WUNENG_TILE_BACKEND(Avx2Tiles, __attribute__((target("arch=x86-64-v3"))), 32, 16)
WUNENG_TILE_BACKEND(Avx512Tiles, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))), 64, 32)
#endif

template <class T>
void backward(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* kept_states, const T* grad_y,
              const T* grad_final_state, const Wkv7GradientOutputs<T>& out) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4"))
    return backward_sized<Avx512Tiles<T>>(in, sizes, kept_states, grad_y, grad_final_state, out);
  if (__builtin_cpu_supports("x86-64-v3"))
    return backward_sized<Avx2Tiles<T>>(in, sizes, kept_states, grad_y, grad_final_state, out);
#endif
  backward_sized<PortableTiles<T>>(in, sizes, kept_states, grad_y, grad_final_state, out);
}

}  // namespace

void wkv7_backward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, const float* kept_states,
                       const float* grad_y, const float* grad_final_state,
                       const Wkv7GradientOutputs<float>& out) {
  backward(in, sizes, kept_states, grad_y, grad_final_state, out);
}
void wkv7_backward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, const double* kept_states,
                       const double* grad_y, const double* grad_final_state,
                       const Wkv7GradientOutputs<double>& out) {
  backward(in, sizes, kept_states, grad_y, grad_final_state, out);
}

}  // namespace wuneng::kernels
