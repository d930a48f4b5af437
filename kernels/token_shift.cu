#include "kernels/token_shift.cuh"

#include <cuda_runtime.h>

namespace wuneng::kernels {
namespace {

// launch(a type that carries M, grid) unless there is nothing to do.
template <int m>
struct Mixes {
  static constexpr int M = m;
};
template <class Element, class Launch>
int for_mixes(int M, const TokenShiftSizes& s, std::int64_t slice, const Launch& launch) {
  constexpr std::int64_t per_block = token_shift_threads * device::pack_width<Element>;
  const dim3 grid(static_cast<unsigned>(token_shift_slices(s, slice)),
                  static_cast<unsigned>((s.C + per_block - 1) / per_block));
  if (grid.x == 0 || grid.y == 0) return 0;
  if (M == 1)
    launch(Mixes<1>(), grid);
  else if (M == 6)
    launch(Mixes<6>(), grid);
  else
    return cudaErrorInvalidValue;
  return cudaGetLastError();
}

}  // namespace

template <class Element>
int token_shift_cuda(const TokenShiftInputs<Element>& in, const TokenShiftSizes& s, int M,
                     const TokenShiftOutputs<Element>& out, void* stream) {
  return for_mixes<Element>(M, s, token_shift_slice, [&](auto mixes, dim3 grid) {
    token_shift_forward<Element, mixes.M>
        <<<grid, token_shift_threads, 0, static_cast<cudaStream_t>(stream)>>>(in, s, out);
  });
}

template <class Element>
int token_shift_backward_cuda(const TokenShiftInputs<Element>& in, const TokenShiftSizes& s, int M,
                              const TokenShiftGradients<Element>& g, float* partial, void* stream) {
  return for_mixes<Element>(M, s, token_shift_backward_slice, [&](auto mixes, dim3 grid) {
    token_shift_backward<Element, mixes.M>
        <<<grid, token_shift_threads, 0, static_cast<cudaStream_t>(stream)>>>(in, s, g, partial);
  });
}

#define WUNENG_TOKEN_SHIFT_CUDA(Element)                                                                \
  template int token_shift_cuda(const TokenShiftInputs<Element>&, const TokenShiftSizes&, int,          \
                                const TokenShiftOutputs<Element>&, void*);                              \
  template int token_shift_backward_cuda(const TokenShiftInputs<Element>&, const TokenShiftSizes&, int, \
                                         const TokenShiftGradients<Element>&, float*, void*);
WUNENG_TOKEN_SHIFT_CUDA(float)
WUNENG_TOKEN_SHIFT_CUDA(device::bf16)
#undef WUNENG_TOKEN_SHIFT_CUDA

}  // namespace wuneng::kernels
