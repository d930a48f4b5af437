#include <algorithm>
#include <cmath>

#include "kernels/linear_cross_entropy_launch.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

template <class T>
WUNENG_INLINE T maximum(const T* x, std::int64_t n) {
  T lanes[16];
  for (T& lane : lanes) lane = x[0];
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  for (; i < n; ++i) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
  T most = lanes[0];
  for (const T lane : lanes) most = lane > most ? lane : most;
  return most;
}

// The sum of e^(z - most). With a gradient the exponentials stay there, in the logits' place.
template <class T>
WUNENG_INLINE T sum_of_exponentials(const T* logits, std::int64_t vocab, T most, T* gradient) {
  if (!gradient) return lane_sum<T>(vocab, [&](std::int64_t c) { return exponential(logits[c] - most); });
  return lane_sum<T>(vocab, [&](std::int64_t c) {
    const T x = exponential(gradient[c] - most);
    gradient[c] = x;
    return x;
  });
}

// The first logit that is the maximum; `vocab` when the logits are no numbers.
template <class T>
std::int64_t place_of(T most, const T* logits, std::int64_t vocab) {
  return std::find(logits, logits + vocab, most) - logits;
}

// Row i: its loss and objective, and its gradient.
#define WUNENG_LOGIT_ROW(T)                                                                             \
  WUNENG_SIMD void logit_row(const LogitRows<T>& r, std::int64_t i) {                                   \
    const T* logits = r.logits + i * r.stride;                                                          \
    T* gradient = r.gradient ? r.gradient + i * r.stride : nullptr;                                     \
    const std::int64_t target = r.targets[i];                                                           \
    const T target_logit = logits[target], most = maximum(logits, r.vocab);                             \
    const std::int64_t largest = r.pull != T(0) ? place_of(most, logits, r.vocab) : r.vocab;            \
    const T sum = sum_of_exponentials(logits, r.vocab, most, gradient);                                 \
    const T log_of_sum = std::log(sum), log_sum_exp = most + log_of_sum;                                \
    r.losses[i] = log_of_sum + (most - target_logit);                                                   \
    r.objectives[i] = r.losses[i] + r.z_loss * log_sum_exp * log_sum_exp + r.pull * most * most / T(2); \
    if (!gradient) return;                                                                              \
    const T factor = (T(1) + T(2) * r.z_loss * log_sum_exp) / sum;                                      \
    for (std::int64_t c = 0; c < r.vocab; ++c) gradient[c] *= factor;                                   \
    for (std::int64_t c = r.vocab; c < r.V; ++c) gradient[c] = T(0);                                    \
    gradient[target] -= T(1);                                                                           \
    if (largest < r.vocab) gradient[largest] += r.pull * most;                                          \
  }
WUNENG_LOGIT_ROW(float)
WUNENG_LOGIT_ROW(double)
#undef WUNENG_LOGIT_ROW

template <class T>
void rows(const LogitRows<T>& r, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i) {
    if (r.targets[i] >= 0) {
      logit_row(r, i);
      continue;
    }
    r.losses[i] = r.objectives[i] = T(0);
    if (r.gradient) std::fill_n(r.gradient + i * r.stride, r.V, T(0));
  }
}

}  // namespace

void logit_rows(const LogitRows<float>& r, std::int64_t first, std::int64_t last) { rows(r, first, last); }
void logit_rows(const LogitRows<double>& r, std::int64_t first, std::int64_t last) { rows(r, first, last); }

}  // namespace wuneng::kernels
