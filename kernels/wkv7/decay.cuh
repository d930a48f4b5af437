// The decay of a chunk, for a strip of 16 channels in the registers of one warp.
#pragma once

#include "kernels/wkv7/workspace.cuh"

namespace wuneng::kernels {

constexpr int strip_channels = 16;
using Strip = device::Block<chunk_tokens, strip_channels>;

constexpr float log2_e = 1.4426950408889634f;

// The element of token 8 q + lane / 4 and channel 8 n + 2 (lane % 4) + e.
WUNENG_DEVICE float& strip_element(Strip& x, int q, int n, int e) { return x.c[q / 2][n][2 * (q % 2) + e]; }

// x_t becomes the sum of x over all tokens up to t, or from t on.
template <bool from_the_end>
WUNENG_DEVICE void accumulate_tokens(Strip& x) {
  const int group = device::lane() / 4;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      float carry = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& sum = strip_element(x, from_the_end ? 3 - i : i, n, e);
#pragma unroll
        for (int step = 1; step < 8; step *= 2) {
          const float other =
              from_the_end ? device::shuffle_down(sum, 4 * step) : device::shuffle_up(sum, 4 * step);
          if (from_the_end ? group + step < 8 : group >= step) sum += other;
        }
        sum += carry;
        carry = device::shuffle(sum, device::lane() % 4 + (from_the_end ? 0 : 28));
      }
    }
}

template <int N>
WUNENG_DEVICE Strip load_strip(const TokenTile<N>& tile, int column) {
  Strip x;
  x.load(tile, 0, column);
  return x;
}

// Of the 16 channels from `column` on. In log2 units and fp32; |log_decay| < 0.61 keeps 2^-through below
// 2^28.
template <int N>
struct ChunkDecay {
  const TokenTile<N>& log_decay;
  int column;
  Strip through;  // G_t
  Strip gamma;    // e^{G_C}, the same for all tokens

  WUNENG_DEVICE ChunkDecay(const TokenTile<N>& log_decay, int column)
      : log_decay(log_decay), column(column), through(load_strip(log_decay, column)) {
    device::elementwise([](float& x) { x *= log2_e; }, through);
    accumulate_tokens<false>(through);
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float all = device::shuffle(strip_element(through, 3, n, e), device::lane() % 4 + 28);
        const float decay = device::exp2_approx(all);
#pragma unroll
        for (int q = 0; q < 4; ++q) strip_element(gamma, q, n, e) = decay;
      }
  }

  // E_t, as long as the tile still holds the log decay.
  WUNENG_DEVICE Strip before() const {
    Strip x = load_strip(log_decay, column);
    device::elementwise([](float& y, float sum) { y = sum - log2_e * y; }, x, through);
    return x;
  }
};

WUNENG_DEVICE Strip exp2(Strip x) {
  device::elementwise([](float& y) { y = device::exp2_approx(y); }, x);
  return x;
}
WUNENG_DEVICE Strip operator-(Strip x) {
  device::elementwise([](float& y) { y = -y; }, x);
  return x;
}
WUNENG_DEVICE Strip operator*(Strip x, const Strip& factor) {
  device::elementwise([](float& y, float f) { y *= f; }, x, factor);
  return x;
}

}  // namespace wuneng::kernels
