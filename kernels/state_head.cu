#include "kernels/state_head.cuh"

#include <cuda_runtime.h>

namespace wuneng::kernels {
namespace {

dim3 grid_of(const StateHeadSizes& s) {
  return {static_cast<unsigned>(state_head_slices(s.tokens)), static_cast<unsigned>(s.H)};
}

bool empty(const StateHeadSizes& s) { return s.tokens == 0 || s.H == 0; }

// launch(a type that carries N) for the head size of s.
template <int n>
struct HeadSize {
  static constexpr int N = n;
};
template <class Launch>
int for_head_size(const StateHeadSizes& s, const Launch& launch) {
  if (empty(s)) return 0;
  if (s.N == 64)
    launch(HeadSize<64>());
  else if (s.N == 128)
    launch(HeadSize<128>());
  else
    return cudaErrorInvalidValue;
  return cudaGetLastError();
}

template <class Element>
unsigned value_mix_blocks(std::int64_t count) {
  constexpr std::int64_t per_block = value_mix_threads * device::pack_width<Element>;
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

template <class Element>
int prepare_cuda(const Preparation<Element>& p, const StateHeadSizes& s, void* stream) {
  return for_head_size(s, [&](auto size) {
    state_head_prepare<Element, size.N>
        <<<grid_of(s), state_head_threads, 0, static_cast<cudaStream_t>(stream)>>>(p, s);
  });
}

template <class Element>
int prepare_backward_cuda(const Preparation<Element>& p, const PreparationGradient<Element>& g,
                          const StateHeadSizes& s, float* partial, void* stream) {
  return for_head_size(s, [&](auto size) {
    state_head_prepare_backward<Element, size.N>
        <<<grid_of(s), state_head_threads, sizeof(HeadSums<Element, size.N, preparation_sums>),
           static_cast<cudaStream_t>(stream)>>>(p, g, s, partial);
  });
}

template <class Element>
int finish_cuda(const Epilogue<Element>& e, const StateHeadSizes& s, Element* out, void* stream) {
  return for_head_size(s, [&](auto size) {
    state_head_finish<Element, size.N>
        <<<grid_of(s), state_head_threads, 0, static_cast<cudaStream_t>(stream)>>>(e, s, out);
  });
}

template <class Element>
int finish_backward_cuda(const Epilogue<Element>& e, const EpilogueGradient<Element>& g,
                         const StateHeadSizes& s, float* partial, void* stream) {
  return for_head_size(s, [&](auto size) {
    state_head_finish_backward<Element, size.N>
        <<<grid_of(s), state_head_threads, sizeof(HeadSums<Element, size.N, epilogue_sums>),
           static_cast<cudaStream_t>(stream)>>>(e, g, s, partial);
  });
}

template <class Element>
int mix_values_cuda(const ValueMix<Element>& m, std::int64_t count, Element* out, void* stream) {
  if (count == 0) return 0;
  value_mix<Element>
      <<<value_mix_blocks<Element>(count), value_mix_threads, 0, static_cast<cudaStream_t>(stream)>>>(
          m, count, out);
  return cudaGetLastError();
}

template <class Element>
int mix_values_backward_cuda(const ValueMix<Element>& m, const ValueMixGradient<Element>& g,
                             std::int64_t count, void* stream) {
  if (count == 0) return 0;
  value_mix_backward<Element>
      <<<value_mix_blocks<Element>(count), value_mix_threads, 0, static_cast<cudaStream_t>(stream)>>>(m, g,
                                                                                                      count);
  return cudaGetLastError();
}

#define WUNENG_STATE_HEAD_CUDA(Element)                                                                \
  template int prepare_cuda(const Preparation<Element>&, const StateHeadSizes&, void*);                \
  template int prepare_backward_cuda(const Preparation<Element>&, const PreparationGradient<Element>&, \
                                     const StateHeadSizes&, float*, void*);                            \
  template int finish_cuda(const Epilogue<Element>&, const StateHeadSizes&, Element*, void*);          \
  template int finish_backward_cuda(const Epilogue<Element>&, const EpilogueGradient<Element>&,        \
                                    const StateHeadSizes&, float*, void*);                             \
  template int mix_values_cuda(const ValueMix<Element>&, std::int64_t, Element*, void*);               \
  template int mix_values_backward_cuda(const ValueMix<Element>&, const ValueMixGradient<Element>&,    \
                                        std::int64_t, void*);
WUNENG_STATE_HEAD_CUDA(float)
WUNENG_STATE_HEAD_CUDA(device::bf16)
#undef WUNENG_STATE_HEAD_CUDA

}  // namespace wuneng::kernels
