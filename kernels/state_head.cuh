// Device code of state_head.h, one pass over memory each. A block works on one head of a slice of tokens: a
// thread keeps 16 bytes of the channels, and their parameters in registers, and walks the slice with the
// lanes beside it that hold the rest of the head.
#pragma once

#include <cmath>

#include "kernels/device/elements.cuh"
#include "kernels/state_head_launch.h"

namespace wuneng::kernels {

using device::Pack;

constexpr int state_head_threads = 128;
constexpr int value_mix_threads = 256;
constexpr float decay_scale = 0.606530660f;  // e^{-1/2}
constexpr float smallest_norm = 1e-12f;

template <class Element, int N>
struct HeadLayout {
  static constexpr int width = device::pack_width<Element>;
  static constexpr int lanes = N / width;                    // that share a token
  static constexpr int tokens = state_head_threads / lanes;  // of a block at once
  static_assert(state_head_slice % tokens == 0);

  WUNENG_DEVICE static int channel() { return threadIdx.x % lanes * width; }  // first of this thread's
  WUNENG_DEVICE static int slot() { return threadIdx.x / lanes; }  // its token among those of the block
  // Of parameters [H, N].
  WUNENG_DEVICE static std::int64_t parameter() {
    return static_cast<std::int64_t>(blockIdx.y) * N + channel();
  }
};

// work(offset of this thread's channels, valid) for the tokens of the block's slice. Lanes past the last
// token repeat it, so that every lane reaches the shuffles, and are told not to write.
template <class Element, int N, class Work>
WUNENG_DEVICE void for_slice(const StateHeadSizes& s, const Work& work) {
  using Layout = HeadLayout<Element, N>;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * state_head_slice;
  const std::int64_t last = first + state_head_slice < s.tokens ? first + state_head_slice : s.tokens;
  for (std::int64_t begin = first; begin < last; begin += Layout::tokens) {
    const std::int64_t own = begin + Layout::slot(), token = own < last ? own : last - 1;
    work(token * s.H * N + Layout::parameter(), own < last);
  }
}

// ------------------------------------------------------- gradients of parameters ----

template <class Element, int N, int count>
struct HeadSums {
  float sum[HeadLayout<Element, N>::tokens][count][N];
};

// Adds the threads' sums over the slice in order and writes them to partial [slices, count, H, N].
template <class Element, int N, int count>
WUNENG_DEVICE void write_slice_sums(const Pack<Element> (&sums)[count], const StateHeadSizes& s,
                                    float* partial) {
  using Layout = HeadLayout<Element, N>;
  auto& shared = device::shared_memory<HeadSums<Element, N, count>>();
  for (int q = 0; q < count; ++q)
    for (int i = 0; i < Layout::width; ++i) shared.sum[Layout::slot()][q][Layout::channel() + i] = sums[q][i];
  device::sync_block();
  for (int at = threadIdx.x; at < count * N; at += state_head_threads) {
    const int q = at / N, n = at % N;
    float sum = 0.0f;
    for (int slot = 0; slot < Layout::tokens; ++slot) sum += shared.sum[slot][q][n];
    partial[((static_cast<std::int64_t>(blockIdx.x) * count + q) * s.H + blockIdx.y) * N + n] = sum;
  }
}

// ------------------------------------------------------------------- preparation ----

// Grid of these and of the epilogue: slices, H.
//
// budget state_head_prepare<float, 64>: registers 48
// budget state_head_prepare<float, 128>: registers 48
// budget state_head_prepare<bf16, 64>: registers 72
// budget state_head_prepare<bf16, 128>: registers 72
template <class Element, int N>
__global__ void __launch_bounds__(state_head_threads)
    state_head_prepare(Preparation<Element> p, StateHeadSizes s) {
  using Layout = HeadLayout<Element, N>;
  const Pack<Element> removal = device::load_pack(p.removal + Layout::parameter()),
                      replacement = device::load_pack(p.replacement + Layout::parameter());
  for_slice<Element, N>(s, [&](std::int64_t at, bool valid) {
    const Pack<Element> decay_logit = device::load_pack(p.decay_logit + at),
                        rate_logit = device::load_pack(p.rate_logit + at), k = device::load_pack(p.k + at);
    float square = 0.0f;
    for (int i = 0; i < Layout::width; ++i) square += k[i] * removal[i] * (k[i] * removal[i]);
    const float norm = std::sqrt(device::lanes_sum<Layout::lanes>(square));
    const float inverse = 1.0f / (norm > smallest_norm ? norm : smallest_norm);
    Pack<Element> log_decay, new_k, a, b;
    for (int i = 0; i < Layout::width; ++i) {
      const float alpha = device::sigmoid(rate_logit[i]), kappa = k[i] * removal[i] * inverse;
      log_decay[i] = -decay_scale * device::sigmoid(decay_logit[i]);
      new_k[i] = k[i] * (1.0f + (alpha - 1.0f) * replacement[i]);
      a[i] = -kappa;
      b[i] = kappa * alpha;
    }
    if (!valid) return;
    device::store_pack(p.log_decay + at, log_decay);
    device::store_pack(p.new_k + at, new_k);
    device::store_pack(p.a + at, a);
    device::store_pack(p.b + at, b);
  });
}

// budget state_head_prepare_backward<float, 64>: registers 72
// budget state_head_prepare_backward<float, 128>: registers 72
// budget state_head_prepare_backward<bf16, 64>: registers 120
// budget state_head_prepare_backward<bf16, 128>: registers 120
template <class Element, int N>
__global__ void __launch_bounds__(state_head_threads)
    state_head_prepare_backward(Preparation<Element> p, PreparationGradient<Element> g, StateHeadSizes s,
                                float* partial) {
  using Layout = HeadLayout<Element, N>;
  const Pack<Element> removal = device::load_pack(p.removal + Layout::parameter()),
                      replacement = device::load_pack(p.replacement + Layout::parameter());
  Pack<Element> sums[preparation_sums] = {};
  for_slice<Element, N>(s, [&](std::int64_t at, bool valid) {
    const Pack<Element> decay_logit = device::load_pack(p.decay_logit + at),
                        rate_logit = device::load_pack(p.rate_logit + at), k = device::load_pack(p.k + at);
    const Pack<Element> d_log_decay = device::load_or_zero(g.d_log_decay, at),
                        d_new_k = device::load_or_zero(g.d_new_k, at), d_a = device::load_or_zero(g.d_a, at),
                        d_b = device::load_or_zero(g.d_b, at);
    Pack<Element> alpha, d_kappa;
    float square = 0.0f, product = 0.0f;
    for (int i = 0; i < Layout::width; ++i) {
      alpha[i] = device::sigmoid(rate_logit[i]);
      d_kappa[i] = d_b[i] * alpha[i] - d_a[i];
      square += k[i] * removal[i] * (k[i] * removal[i]);
      product += d_kappa[i] * k[i] * removal[i];
    }
    const float norm = std::sqrt(device::lanes_sum<Layout::lanes>(square));
    const bool projected = norm > smallest_norm;  // below, kappa is linear in k
    const float inverse = 1.0f / (projected ? norm : smallest_norm);
    const float dot = device::lanes_sum<Layout::lanes>(product);
    const float along = projected ? dot * inverse : 0.0f;
    Pack<Element> d_decay_logit, d_rate_logit, d_k;
    for (int i = 0; i < Layout::width; ++i) {
      const float decay = device::sigmoid(decay_logit[i]), kappa = k[i] * removal[i] * inverse;
      const float d_removed = (d_kappa[i] - kappa * along) * inverse;
      const float d_alpha = d_b[i] * kappa + d_new_k[i] * k[i] * replacement[i];
      d_decay_logit[i] = d_log_decay[i] * -decay_scale * decay * (1.0f - decay);
      d_rate_logit[i] = d_alpha * alpha[i] * (1.0f - alpha[i]);
      d_k[i] = d_new_k[i] * (1.0f + (alpha[i] - 1.0f) * replacement[i]) + d_removed * removal[i];
      sums[0][i] += valid ? d_removed * k[i] : 0.0f;
      sums[1][i] += valid ? d_new_k[i] * k[i] * (alpha[i] - 1.0f) : 0.0f;
    }
    if (!valid) return;
    device::store_pack(g.d_decay_logit + at, d_decay_logit);
    device::store_pack(g.d_rate_logit + at, d_rate_logit);
    device::store_pack(g.d_k + at, d_k);
  });
  write_slice_sums<Element, N>(sums, s, partial);
}

// ---------------------------------------------------------------------- epilogue ----

template <class Element>
struct HeadParameters {
  Pack<Element> bonus, weight, bias;

  WUNENG_DEVICE HeadParameters(const Epilogue<Element>& e, std::int64_t at)
      : bonus(device::load_pack(e.bonus + at)),
        weight(device::load_pack(e.weight + at)),
        bias(device::load_pack(e.bias + at)) {}
};

// One token of a head, its norm and bonus taken.
template <class Element, int N>
struct HeadToken {
  Pack<Element> r, k, v, gate;
  Pack<Element> centred;  // y - mean
  float scale;            // 1 / sqrt(variance + eps)
  float bonus;            // sum r k bonus

  WUNENG_DEVICE HeadToken(const Epilogue<Element>& e, const Pack<Element>& weights, std::int64_t at)
      : r(device::load_pack(e.r + at)),
        k(device::load_pack(e.k + at)),
        v(device::load_pack(e.v + at)),
        gate(device::load_pack(e.gate + at)),
        centred(device::load_pack(e.y + at)) {
    using Layout = HeadLayout<Element, N>;
    float sum = 0.0f, square = 0.0f, product = 0.0f;
    for (int i = 0; i < Layout::width; ++i) {
      sum += centred[i];
      product += r[i] * k[i] * weights[i];
    }
    const float mean = device::lanes_sum<Layout::lanes>(sum) * (1.0f / N);
    bonus = device::lanes_sum<Layout::lanes>(product);
    for (int i = 0; i < Layout::width; ++i) {
      centred[i] -= mean;
      square += centred[i] * centred[i];
    }
    const float variance = device::lanes_sum<Layout::lanes>(square) * (1.0f / N);
    scale = 1.0f / std::sqrt(variance + static_cast<float>(e.eps));
  }
};

// budget state_head_finish<float, 64>: registers 48
// budget state_head_finish<float, 128>: registers 48
// budget state_head_finish<bf16, 64>: registers 72
// budget state_head_finish<bf16, 128>: registers 72
template <class Element, int N>
__global__ void __launch_bounds__(state_head_threads)
    state_head_finish(Epilogue<Element> e, StateHeadSizes s, Element* out) {
  const HeadParameters<Element> head(e, HeadLayout<Element, N>::parameter());
  for_slice<Element, N>(s, [&](std::int64_t at, bool valid) {
    const HeadToken<Element, N> x(e, head.bonus, at);
    Pack<Element> result;
    for (int i = 0; i < result.width; ++i)
      result[i] = (x.centred[i] * x.scale * head.weight[i] + head.bias[i] + x.bonus * x.v[i]) * x.gate[i];
    if (valid) device::store_pack(out + at, result);
  });
}

// budget state_head_finish_backward<float, 64>: registers 72
// budget state_head_finish_backward<float, 128>: registers 72
// budget state_head_finish_backward<bf16, 64>: registers 128
// budget state_head_finish_backward<bf16, 128>: registers 128
template <class Element, int N>
__global__ void __launch_bounds__(state_head_threads)
    state_head_finish_backward(Epilogue<Element> e, EpilogueGradient<Element> g, StateHeadSizes s,
                               float* partial) {
  using Layout = HeadLayout<Element, N>;
  const HeadParameters<Element> head(e, Layout::parameter());
  Pack<Element> sums[epilogue_sums] = {};
  for_slice<Element, N>(s, [&](std::int64_t at, bool valid) {
    const HeadToken<Element, N> x(e, head.bonus, at);
    const Pack<Element> d = device::load_pack(g.d_out + at);
    float bonus_sum = 0.0f, normal_sum = 0.0f, centred_sum = 0.0f;
    for (int i = 0; i < Layout::width; ++i) {
      const float inner = d[i] * x.gate[i];
      bonus_sum += inner * x.v[i];
      normal_sum += inner * head.weight[i];
      centred_sum += inner * head.weight[i] * x.centred[i];
    }
    const float d_bonus = device::lanes_sum<Layout::lanes>(bonus_sum);
    const float shift = device::lanes_sum<Layout::lanes>(normal_sum) * (1.0f / N);
    const float projection = device::lanes_sum<Layout::lanes>(centred_sum) * x.scale * x.scale * (1.0f / N);
    Pack<Element> d_y, d_r, d_k, d_v, d_gate;
    for (int i = 0; i < Layout::width; ++i) {
      const float inner = d[i] * x.gate[i], normal = x.centred[i] * x.scale;
      d_y[i] = x.scale * (inner * head.weight[i] - shift - x.centred[i] * projection);
      d_r[i] = d_bonus * x.k[i] * head.bonus[i];
      d_k[i] = d_bonus * x.r[i] * head.bonus[i];
      d_v[i] = inner * x.bonus;
      d_gate[i] = d[i] * (normal * head.weight[i] + head.bias[i] + x.bonus * x.v[i]);
      sums[0][i] += valid ? d_bonus * x.r[i] * x.k[i] : 0.0f;
      sums[1][i] += valid ? inner * normal : 0.0f;
      sums[2][i] += valid ? inner : 0.0f;
    }
    if (!valid) return;
    device::store_pack(g.d_y + at, d_y);
    device::store_pack(g.d_r + at, d_r);
    device::store_pack(g.d_k + at, d_k);
    device::store_pack(g.d_v + at, d_v);
    device::store_pack(g.d_gate + at, d_gate);
  });
  write_slice_sums<Element, N>(sums, s, partial);
}

// --------------------------------------------------------------------- value mix ----

// Offset of this thread's elements. Grid of both: count / (256 * elements in 16 bytes).
template <class Element>
WUNENG_DEVICE std::int64_t value_mix_offset() {
  return (static_cast<std::int64_t>(blockIdx.x) * value_mix_threads + threadIdx.x) *
         device::pack_width<Element>;
}

// budget value_mix<float>: registers 32
// budget value_mix<bf16>: registers 40
template <class Element>
__global__ void __launch_bounds__(value_mix_threads)
    value_mix(ValueMix<Element> m, std::int64_t count, Element* out) {
  const std::int64_t at = value_mix_offset<Element>();
  if (at >= count) return;
  const Pack<Element> v = device::load_pack(m.v + at), first = device::load_pack(m.first + at),
                      logit = device::load_pack(m.logit + at);
  Pack<Element> mixed;
  for (int i = 0; i < mixed.width; ++i) mixed[i] = v[i] + (first[i] - v[i]) * device::sigmoid(logit[i]);
  device::store_pack(out + at, mixed);
}

// budget value_mix_backward<float>: registers 32
// budget value_mix_backward<bf16>: registers 48
template <class Element>
__global__ void __launch_bounds__(value_mix_threads)
    value_mix_backward(ValueMix<Element> m, ValueMixGradient<Element> g, std::int64_t count) {
  const std::int64_t at = value_mix_offset<Element>();
  if (at >= count) return;
  const Pack<Element> v = device::load_pack(m.v + at), first = device::load_pack(m.first + at),
                      logit = device::load_pack(m.logit + at), d = device::load_pack(g.d_out + at);
  Pack<Element> d_v, d_first, d_logit;
  for (int i = 0; i < d.width; ++i) {
    const float share = device::sigmoid(logit[i]);
    d_v[i] = d[i] * (1.0f - share);
    d_first[i] = d[i] * share;
    d_logit[i] = d[i] * (first[i] - v[i]) * share * (1.0f - share);
  }
  device::store_pack(g.d_v + at, d_v);
  device::store_pack(g.d_first + at, d_first);
  device::store_pack(g.d_logit + at, d_logit);
}

}  // namespace wuneng::kernels
