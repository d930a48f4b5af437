// Launchers of token_shift.h on CUDA: plain pointers, no tensors. All tensors are contiguous and 16-byte
// aligned; Element is float or device::bf16. Every launcher returns 0 or the cudaError_t of a launch that
// failed.
#pragma once

#include <cstdint>

namespace wuneng::device {
struct bf16;
}

namespace wuneng::kernels {

struct TokenShiftSizes {
  std::int64_t B, T, C;  // C is a multiple of 8
};

constexpr int token_shift_mixes = 6;  // interpolations at most: there are kernels for 1 and for 6

template <class Element>
struct TokenShiftInputs {
  const Element* x;            // [B, T, C]
  const Element* mix;          // [M, C]
  const Element* previous;     // [B, C]; null: zero
  const std::uint8_t* starts;  // [B, T] on the device, 1 where a document starts; null: nowhere
};

template <class Element>
struct TokenShiftOutputs {
  Element* out[token_shift_mixes];  // M of [B, T, C]
};

template <class Element>
struct TokenShiftGradients {
  const Element* d_out[token_shift_mixes];  // M of [B, T, C]; null: zero
  Element* d_x;                             // [B, T, C]
  Element* d_previous;                      // [B, C]; null: not wanted
};

template <class Element>
int token_shift_cuda(const TokenShiftInputs<Element>& in, const TokenShiftSizes& s, int M,
                     const TokenShiftOutputs<Element>& out, void* stream);

// The gradient of mix comes as one partial sum per slice of a row's tokens, partial [slices, M, C], for
// device/slice_sum.h to add.
template <class Element>
int token_shift_backward_cuda(const TokenShiftInputs<Element>& in, const TokenShiftSizes& s, int M,
                              const TokenShiftGradients<Element>& g, float* partial, void* stream);

constexpr std::int64_t token_shift_slice = 16;           // tokens of a block, forward
constexpr std::int64_t token_shift_backward_slice = 32;  // and backward
constexpr std::int64_t token_shift_slices(const TokenShiftSizes& s, std::int64_t slice) {
  return s.B * ((s.T + slice - 1) / slice);
}

}  // namespace wuneng::kernels
