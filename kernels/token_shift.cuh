// Device code of token_shift.h: each thread keeps 16 bytes of the channels with their mixes in registers and
// walks a slice of one row's tokens, so that x is read once whatever the number of interpolations.
#pragma once

#include "kernels/device/elements.cuh"
#include "kernels/token_shift_launch.h"

namespace wuneng::kernels {

using device::Pack;

constexpr int token_shift_threads = 128;

// What a block works on: tokens [first, last) of a row.
struct TokenSlice {
  std::int64_t row, first, last;

  WUNENG_DEVICE TokenSlice(const TokenShiftSizes& s, std::int64_t length) {
    const auto per_row = static_cast<unsigned>((s.T + length - 1) / length);
    row = blockIdx.x / per_row;
    first = blockIdx.x % per_row * length;
    last = first + length < s.T ? first + length : s.T;
  }
};

// The first of this thread's channels.
template <class Element>
WUNENG_DEVICE std::int64_t token_shift_channel() {
  return (static_cast<std::int64_t>(blockIdx.y) * token_shift_threads + threadIdx.x) *
         device::pack_width<Element>;
}

template <class Element>
WUNENG_DEVICE bool document_starts_at(const TokenShiftInputs<Element>& in, std::int64_t token) {
  return in.starts && in.starts[token];
}

// The token before token t of the row, whatever documents there are.
template <class Element>
WUNENG_DEVICE Pack<Element> token_before(const TokenShiftInputs<Element>& in, const TokenShiftSizes& s,
                                         std::int64_t row, std::int64_t t, std::int64_t channel) {
  if (t > 0) return device::load_pack(in.x + (row * s.T + t - 1) * s.C + channel);
  return device::load_or_zero(in.previous, row * s.C + channel);
}

// Grid of both kernels: slices, C / (128 * elements in 16 bytes).
//
// budget token_shift_forward<float, 1>: registers 40
// budget token_shift_forward<float, 6>: registers 56
// budget token_shift_forward<bf16, 1>: registers 40
// budget token_shift_forward<bf16, 6>: registers 96
template <class Element, int M>
__global__ void __launch_bounds__(token_shift_threads)
    token_shift_forward(TokenShiftInputs<Element> in, TokenShiftSizes s, TokenShiftOutputs<Element> out) {
  const TokenSlice slice(s, token_shift_slice);
  const std::int64_t channel = token_shift_channel<Element>();
  if (channel >= s.C) return;
  Pack<Element> mix[M];
  for (int m = 0; m < M; ++m) mix[m] = device::load_pack(in.mix + m * s.C + channel);
  Pack<Element> before = token_before(in, s, slice.row, slice.first, channel);
  for (std::int64_t t = slice.first; t < slice.last; ++t) {
    const std::int64_t token = slice.row * s.T + t, at = token * s.C + channel;
    if (document_starts_at(in, token)) before = {};
    const Pack<Element> x = device::load_pack(in.x + at);
    for (int m = 0; m < M; ++m) {
      Pack<Element> mixed;
      for (int i = 0; i < x.width; ++i) mixed[i] = x[i] + (before[i] - x[i]) * mix[m][i];
      device::store_pack(out.out[m] + at, mixed);
    }
    before = x;
  }
}

// What one token's gradients say: sum d, and of it sum d mix, which goes to the token before.
template <class Element>
struct TokenGradient {
  Pack<Element> all = {}, back = {};
};

// d_mix += d (before - x) on the way. The mixes, `mix` + m C, stay in the cache: in registers they would cost
// half of the threads.
template <class Element, int M>
WUNENG_DEVICE TokenGradient<Element> token_gradient(const TokenShiftGradients<Element>& g, std::int64_t at,
                                                    const Element* mix, std::int64_t C,
                                                    const Pack<Element>& difference,
                                                    Pack<Element> (&d_mix)[M]) {
  TokenGradient<Element> sum;
  for (int m = 0; m < M; ++m) {
    const Pack<Element> d = device::load_or_zero(g.d_out[m], at), share = device::load_pack(mix + m * C);
    for (int i = 0; i < d.width; ++i) {
      sum.all[i] += d[i];
      sum.back[i] += d[i] * share[i];
      d_mix[m][i] += d[i] * difference[i];
    }
  }
  return sum;
}

// Walks backwards: what a token hands to the one before it is at hand when that one's turn comes.
//
// budget token_shift_backward<float, 1>: registers 40
// budget token_shift_backward<float, 6>: registers 104
// budget token_shift_backward<bf16, 1>: registers 56
// budget token_shift_backward<bf16, 6>: registers 168
template <class Element, int M>
__global__ void __launch_bounds__(token_shift_threads)
    token_shift_backward(TokenShiftInputs<Element> in, TokenShiftSizes s, TokenShiftGradients<Element> g,
                         float* partial) {
  const TokenSlice slice(s, token_shift_backward_slice);
  const std::int64_t channel = token_shift_channel<Element>();
  if (channel >= s.C) return;
  const Element* mix = in.mix + channel;
  Pack<Element> d_mix[M] = {};
  const std::int64_t row = slice.row * s.T, end = row + slice.last;
  Pack<Element> handed_back = {};  // by the token after the one at hand
  // The first token of the next slice, whose part of d_mix is that slice's: the difference is zero here.
  if (slice.last < s.T && !document_starts_at(in, end))
    handed_back = token_gradient(g, end * s.C + channel, mix, s.C, Pack<Element>{}, d_mix).back;
  Pack<Element> x = device::load_pack(in.x + (end - 1) * s.C + channel);
  for (std::int64_t t = slice.last - 1; t >= slice.first; --t) {
    const std::int64_t at = (row + t) * s.C + channel;
    const bool cut = document_starts_at(in, row + t);
    const Pack<Element> before = token_before(in, s, slice.row, t, channel);
    Pack<Element> difference, d_x;
    for (int i = 0; i < x.width; ++i) difference[i] = (cut ? 0.0f : before[i]) - x[i];
    const TokenGradient<Element> d = token_gradient(g, at, mix, s.C, difference, d_mix);
    for (int i = 0; i < x.width; ++i) d_x[i] = d.all[i] - d.back[i] + handed_back[i];
    device::store_pack(g.d_x + at, d_x);
    handed_back = cut ? Pack<Element>{} : d.back;
    x = before;
  }
  if (slice.first == 0 && g.d_previous)
    device::store_pack(g.d_previous + slice.row * s.C + channel, handed_back);
  float* sums = partial + static_cast<std::int64_t>(blockIdx.x) * M * s.C + channel;
  for (int m = 0; m < M; ++m) device::store_sums(sums + m * s.C, d_mix[m]);
}

}  // namespace wuneng::kernels
