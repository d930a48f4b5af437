// What memory-bound kernels are made of: sixteen bytes of a tensor as floats in registers, and the small
// functions between them. Elements are float or bf16; all arithmetic is in fp32.
#pragma once

#include "kernels/device/warp.cuh"

namespace wuneng::device {

// Elements in one 16-byte access.
template <class Element>
constexpr int pack_width = 16 / static_cast<int>(sizeof(Element));

template <class Element>
struct Pack {
  static constexpr int width = pack_width<Element>;
  float x[width];

  WUNENG_DEVICE float& operator[](int i) { return x[i]; }
  WUNENG_DEVICE float operator[](int i) const { return x[i]; }
};

// What one load or store instruction moves.
struct __attribute__((may_alias, aligned(16))) FourFloats {
  float x[4];
};
struct __attribute__((may_alias, aligned(16))) FourPairs {
  std::uint32_t x[4];
};

// p is 16-byte aligned.
WUNENG_DEVICE Pack<float> load_pack(const float* p) {
  const FourFloats in = *reinterpret_cast<const FourFloats*>(p);
  return {{in.x[0], in.x[1], in.x[2], in.x[3]}};
}
WUNENG_DEVICE Pack<bf16> load_pack(const bf16* p) {
  const FourPairs in = *reinterpret_cast<const FourPairs*>(p);
  Pack<bf16> out;
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = low_half(in.x[i]);
    out[2 * i + 1] = high_half(in.x[i]);
  }
  return out;
}

// nvcc takes the store of a struct apart, and in loops does not join it again: the intrinsic keeps it whole.
#ifdef __CUDACC__
WUNENG_DEVICE void store_16(FourFloats* p, const FourFloats& x) {
  __stwb(reinterpret_cast<float4*>(p), make_float4(x.x[0], x.x[1], x.x[2], x.x[3]));
}
WUNENG_DEVICE void store_16(FourPairs* p, const FourPairs& x) {
  __stwb(reinterpret_cast<uint4*>(p), make_uint4(x.x[0], x.x[1], x.x[2], x.x[3]));
}
#else
inline void store_16(FourFloats* p, const FourFloats& x) { *p = x; }
inline void store_16(FourPairs* p, const FourPairs& x) { *p = x; }
#endif

WUNENG_DEVICE void store_pack(float* p, const Pack<float>& x) {
  store_16(reinterpret_cast<FourFloats*>(p), {{x[0], x[1], x[2], x[3]}});
}
WUNENG_DEVICE void store_pack(bf16* p, const Pack<bf16>& x) {
  FourPairs out;
  for (int i = 0; i < 4; ++i) out.x[i] = pack_bf16(x[2 * i], x[2 * i + 1]);
  store_16(reinterpret_cast<FourPairs*>(p), out);
}

// The same in fp32, whatever the element: sums over tokens that are not finished.
template <class Element>
WUNENG_DEVICE void store_sums(float* p, const Pack<Element>& x) {
  for (int i = 0; i < x.width; i += 4)
    store_16(reinterpret_cast<FourFloats*>(p + i), {{x[i], x[i + 1], x[i + 2], x[i + 3]}});
}

// The pack at p + offset, zeros when p is null: a tensor that is not there.
template <class Element>
WUNENG_DEVICE Pack<Element> load_or_zero(const Element* p, std::int64_t offset) {
  return p ? load_pack(p + offset) : Pack<Element>{};
}

WUNENG_DEVICE void store_element(float* p, float x) { *p = x; }
WUNENG_DEVICE void store_element(bf16* p, float x) { *p = to_bf16(x); }

// The sum over `lanes` neighbouring lanes (a power of two, aligned), the same bits in each of them.
template <int lanes>
WUNENG_DEVICE float lanes_sum(float x) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) x += shuffle_xor(x, mask);
  return x;
}

// Saturates to 0 and 1: 2^large is infinite.
WUNENG_DEVICE float sigmoid(float x) { return 1.0f / (1.0f + exp2_approx(-1.44269504f * x)); }

}  // namespace wuneng::device
