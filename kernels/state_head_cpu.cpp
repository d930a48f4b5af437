// The state head's neighbours of WKV-7 on the CPU: plain loops over rows for the vector unit.
#include <cmath>

#include "kernels/state_head_launch.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

constexpr double decay_scale = 0.60653065971263342;  // e^{-1/2}
constexpr double smallest_norm = 1e-12;

// --------------------------------------------------------------- preparation ----

template <class T>
WUNENG_INLINE T removal_norm(const T* k, const T* removal, std::int64_t N) {
  return std::sqrt(lane_sum<T>(N, [&](std::int64_t i) { return (k[i] * removal[i]) * (k[i] * removal[i]); }));
}

template <class T>
WUNENG_INLINE void prepare(const Preparation<T>& p, const StateHeadSizes& s, std::int64_t first,
                           std::int64_t last) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const T *k = p.k + at, *removal = p.removal + h, *replacement = p.replacement + h;
    const T norm = removal_norm(k, removal, s.N);
    const T inverse = T(1) / (norm > T(smallest_norm) ? norm : T(smallest_norm));
    WUNENG_INDEPENDENT
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T alpha = sigmoid(p.rate_logit[at + i]), kappa = k[i] * removal[i] * inverse;
      p.log_decay[at + i] = T(-decay_scale) * sigmoid(p.decay_logit[at + i]);
      p.new_k[at + i] = k[i] * (T(1) + (alpha - T(1)) * replacement[i]);
      p.a[at + i] = -kappa;
      p.b[at + i] = kappa * alpha;
    }
  }
}

template <class T>
WUNENG_INLINE void prepare_backward(const Preparation<T>& p, const PreparationGradient<T>& g,
                                    const StateHeadSizes& s, std::int64_t first, std::int64_t last, T* sums) {
  T *d_removal = sums, *d_replacement = sums + s.H * s.N;
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const T *k = p.k + at, *removal = p.removal + h, *replacement = p.replacement + h;
    const T *d_new_k = g.d_new_k + at, *d_a = g.d_a + at, *d_b = g.d_b + at;
    const T norm = removal_norm(k, removal, s.N);
    const bool projected =
        norm > T(smallest_norm);  // below, kappa is linear in k and its gradient is not projected
    const T inverse = T(1) / (projected ? norm : T(smallest_norm));
    const auto d_kappa = [&](std::int64_t i) { return d_b[i] * sigmoid(p.rate_logit[at + i]) - d_a[i]; };
    const T along =
        projected ? lane_sum<T>(s.N, [&](std::int64_t i) { return d_kappa(i) * k[i] * removal[i] * inverse; })
                  : T(0);
    WUNENG_INDEPENDENT
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T alpha = sigmoid(p.rate_logit[at + i]), decay = sigmoid(p.decay_logit[at + i]);
      const T kappa = k[i] * removal[i] * inverse;
      const T d_removed = (d_kappa(i) - kappa * along) * inverse;
      const T d_alpha = d_b[i] * kappa + d_new_k[i] * k[i] * replacement[i];
      g.d_decay_logit[at + i] = g.d_log_decay[at + i] * T(-decay_scale) * decay * (T(1) - decay);
      g.d_rate_logit[at + i] = d_alpha * alpha * (T(1) - alpha);
      g.d_k[at + i] = d_new_k[i] * (T(1) + (alpha - T(1)) * replacement[i]) + d_removed * removal[i];
      d_removal[h + i] += d_removed * k[i];
      d_replacement[h + i] += d_new_k[i] * k[i] * (alpha - T(1));
    }
  }
}

// ------------------------------------------------------------------ epilogue ----

template <class T>
struct RowStats {
  T mean, scale, bonus;
};

template <class T>
WUNENG_INLINE RowStats<T> row_stats(const Epilogue<T>& e, std::int64_t at, std::int64_t h, std::int64_t N) {
  const T* y = e.y + at;
  const T mean = lane_sum<T>(N, [&](std::int64_t i) { return y[i]; }) / T(N);
  const T variance = lane_sum<T>(N, [&](std::int64_t i) { return (y[i] - mean) * (y[i] - mean); }) / T(N);
  const T bonus = lane_sum<T>(N, [&](std::int64_t i) { return e.r[at + i] * e.k[at + i] * e.bonus[h + i]; });
  return {mean, T(1) / std::sqrt(variance + T(e.eps)), bonus};
}

template <class T>
WUNENG_INLINE void finish(const Epilogue<T>& e, const StateHeadSizes& s, std::int64_t first,
                          std::int64_t last, T* out) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const RowStats<T> stats = row_stats(e, at, h, s.N);
    WUNENG_INDEPENDENT
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T normal = (e.y[at + i] - stats.mean) * stats.scale * e.weight[h + i] + e.bias[h + i];
      out[at + i] = (normal + stats.bonus * e.v[at + i]) * e.gate[at + i];
    }
  }
}

template <class T>
WUNENG_INLINE void finish_backward(const Epilogue<T>& e, const EpilogueGradient<T>& g,
                                   const StateHeadSizes& s, std::int64_t first, std::int64_t last, T* sums) {
  T *d_bonus_sum = sums, *d_weight = sums + s.H * s.N, *d_bias = sums + 2 * s.H * s.N;
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const RowStats<T> stats = row_stats(e, at, h, s.N);
    const T *d = g.d_out + at, *gate = e.gate + at, *y = e.y + at, *weight = e.weight + h;
    const auto d_normal = [&](std::int64_t i) { return d[i] * gate[i] * weight[i]; };
    const T d_bonus = lane_sum<T>(s.N, [&](std::int64_t i) { return d[i] * gate[i] * e.v[at + i]; });
    const T shift = lane_sum<T>(s.N, d_normal) / T(s.N);
    const T projection = lane_sum<T>(s.N, [&](std::int64_t i) { return d_normal(i) * (y[i] - stats.mean); }) *
                         stats.scale * stats.scale / T(s.N);
    WUNENG_INDEPENDENT
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T centred = y[i] - stats.mean, normal = centred * stats.scale, inner = d[i] * gate[i];
      g.d_gate[at + i] = d[i] * (normal * weight[i] + e.bias[h + i] + stats.bonus * e.v[at + i]);
      g.d_y[at + i] = stats.scale * (inner * weight[i] - shift - centred * projection);
      g.d_v[at + i] = inner * stats.bonus;
      g.d_r[at + i] = d_bonus * e.k[at + i] * e.bonus[h + i];
      g.d_k[at + i] = d_bonus * e.r[at + i] * e.bonus[h + i];
      d_bonus_sum[h + i] += d_bonus * e.r[at + i] * e.k[at + i];
      d_weight[h + i] += inner * normal;
      d_bias[h + i] += inner;
    }
  }
}

}  // namespace

#define WUNENG_STATE_HEAD_ROWS(T)                                                                        \
  WUNENG_SIMD void prepare_rows(const Preparation<T>& p, const StateHeadSizes& s, std::int64_t first,    \
                                std::int64_t last) {                                                     \
    prepare(p, s, first, last);                                                                          \
  }                                                                                                      \
  WUNENG_SIMD void prepare_rows_backward(const Preparation<T>& p, const PreparationGradient<T>& g,       \
                                         const StateHeadSizes& s, std::int64_t first, std::int64_t last, \
                                         T* sums) {                                                      \
    prepare_backward(p, g, s, first, last, sums);                                                        \
  }                                                                                                      \
  WUNENG_SIMD void finish_rows(const Epilogue<T>& e, const StateHeadSizes& s, std::int64_t first,        \
                               std::int64_t last, T* out) {                                              \
    finish(e, s, first, last, out);                                                                      \
  }                                                                                                      \
  WUNENG_SIMD void finish_rows_backward(const Epilogue<T>& e, const EpilogueGradient<T>& g,              \
                                        const StateHeadSizes& s, std::int64_t first, std::int64_t last,  \
                                        T* sums) {                                                       \
    finish_backward(e, g, s, first, last, sums);                                                         \
  }                                                                                                      \
  WUNENG_SIMD void mix_elements(const ValueMix<T>& m, std::int64_t first, std::int64_t last, T* out) {   \
    WUNENG_INDEPENDENT                                                                                   \
    for (std::int64_t i = first; i < last; ++i)                                                          \
      out[i] = m.v[i] + (m.first[i] - m.v[i]) * sigmoid(m.logit[i]);                                     \
  }                                                                                                      \
  WUNENG_SIMD void mix_elements_backward(const ValueMix<T>& m, const ValueMixGradient<T>& g,             \
                                         std::int64_t first, std::int64_t last) {                        \
    WUNENG_INDEPENDENT                                                                                   \
    for (std::int64_t i = first; i < last; ++i) {                                                        \
      const T share = sigmoid(m.logit[i]);                                                               \
      g.d_v[i] = g.d_out[i] * (T(1) - share);                                                            \
      g.d_first[i] = g.d_out[i] * share;                                                                 \
      g.d_logit[i] = g.d_out[i] * (m.first[i] - m.v[i]) * share * (T(1) - share);                        \
    }                                                                                                    \
  }
WUNENG_STATE_HEAD_ROWS(float)
WUNENG_STATE_HEAD_ROWS(double)
#undef WUNENG_STATE_HEAD_ROWS

}  // namespace wuneng::kernels
