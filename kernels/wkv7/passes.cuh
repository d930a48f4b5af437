// The kernels of a forward and of a backward pass in their order, for whoever can launch them: the device
// (cuda.cu) or the emulator. `launch(kernel, LaunchSize, arguments)` returns 0 or an error, which ends the
// pass.
#pragma once

#include "kernels/wkv7/chain.cuh"
#include "kernels/wkv7/gradient.cuh"
#include "kernels/wkv7/prepare.cuh"

namespace wuneng::kernels {

struct LaunchSize {
  unsigned grid_x, grid_y;
  int threads;
  std::size_t shared_bytes;
};

template <int N>
std::size_t forward_workspace(const Wkv7Chunks& chunks, int H) {
  return static_cast<std::size_t>(chunks.chunks) * H * sizeof(ForwardRecord<N>);
}

template <int N>
constexpr std::size_t state_bytes = sizeof(device::bf16) * N* N;

// The records, then the gradients of the states.
template <int N>
std::size_t backward_workspace(const Wkv7Chunks& chunks, int H) {
  return static_cast<std::size_t>(chunks.chunks) * H * (sizeof(BackwardRecord<N>) + state_bytes<N>);
}

template <int N, bool backward, class Launch>
int launch_prepare(const Launch& launch, const PrepareArguments<N, backward>& arguments) {
  const LaunchSize size{static_cast<unsigned>(arguments.chunks.chunks), static_cast<unsigned>(arguments.H),
                        prepare_threads, sizeof(PrepareShared<N, backward>)};
  return launch(wkv7_prepare<N, backward>, size, arguments);
}

template <int N, bool backward, class Launch>
int launch_chain(const Launch& launch, const ChainArguments<N, backward>& arguments) {
  const LaunchSize size{static_cast<unsigned>(arguments.chunks.sequences) * arguments.H, N / value_rows,
                        chain_threads, sizeof(ChainShared<N, backward>)};
  return launch(wkv7_chain<N, backward>, size, arguments);
}

template <int N, class Launch>
int launch_gradient(const Launch& launch, const GradientArguments<N>& arguments) {
  const LaunchSize size{static_cast<unsigned>(arguments.chunks.chunks), static_cast<unsigned>(arguments.H),
                        gradient_threads(N), sizeof(GradientShared<N>)};
  return launch(wkv7_gradient<N>, size, arguments);
}

inline const device::bf16* as_bf16(const Bf16* bits) { return reinterpret_cast<const device::bf16*>(bits); }
inline device::bf16* as_bf16(Bf16* bits) { return reinterpret_cast<device::bf16*>(bits); }

template <int N, class Launch>
int forward_pass(const Launch& launch, const Wkv7Chunks& chunks, int H, const Wkv7CudaInputs<Bf16>& in,
                 Bf16* y, float* final_state, Bf16* states, void* workspace) {
  auto* records = static_cast<ForwardRecord<N>*>(workspace);
  if (const int error =
          launch_prepare<N, false>(launch, {chunks, H, as_bf16(in.r), as_bf16(in.log_decay), as_bf16(in.k),
                                            as_bf16(in.a), as_bf16(in.b), records}))
    return error;
  return launch_chain<N, false>(launch, {chunks, H, records, as_bf16(in.v), as_bf16(y), as_bf16(states),
                                         in.initial_state, final_state});
}

template <int N, class Launch>
int backward_pass(const Launch& launch, const Wkv7Chunks& chunks, int H, const Wkv7CudaInputs<Bf16>& in,
                  const Bf16* states, const Bf16* grad_y, const float* grad_final_state,
                  const Wkv7CudaGradients<Bf16>& out, void* workspace) {
  auto* records = static_cast<BackwardRecord<N>*>(workspace);
  auto* state_gradients =
      reinterpret_cast<device::bf16*>(records + static_cast<std::int64_t>(chunks.chunks) * H);
  if (const int error =
          launch_prepare<N, true>(launch, {chunks, H, as_bf16(in.r), as_bf16(in.log_decay), as_bf16(in.k),
                                           as_bf16(in.a), as_bf16(in.b), records}))
    return error;
  if (const int error = launch_chain<N, true>(launch, {chunks, H, records, as_bf16(grad_y), nullptr,
                                                       state_gradients, grad_final_state, out.initial_state}))
    return error;
  return launch_gradient<N>(
      launch, {chunks, H, records, as_bf16(states), state_gradients, as_bf16(in.log_decay), as_bf16(in.k),
               as_bf16(in.v), as_bf16(in.b), as_bf16(grad_y), as_bf16(out.r), as_bf16(out.log_decay),
               as_bf16(out.k), as_bf16(out.v), as_bf16(out.a), as_bf16(out.b)});
}

}  // namespace wuneng::kernels
