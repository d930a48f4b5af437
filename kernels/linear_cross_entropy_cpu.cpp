#include <algorithm>
#include <cmath>

#include "kernels/linear_cross_entropy_launch.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

template <class T>
struct RowDescription {
  T most, sum;  // the maximum of the logits, and the sum of e^(z - most)
};

template <class T>
WUNENG_INLINE RowDescription<T> describe_row(const T* logits, std::int64_t vocab) {
  T lanes[16];
  for (T& lane : lanes) lane = logits[0];
  std::int64_t i = 0;
  for (; i + 16 <= vocab; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = logits[i + l] > lanes[l] ? logits[i + l] : lanes[l];
  for (; i < vocab; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  T most = lanes[0];
  for (const T lane : lanes) most = lane > most ? lane : most;
  return {most, lane_sum<T>(vocab, [&](std::int64_t j) { return exponential(logits[j] - most); })};
}

// Row i: its loss and objective, and its gradient.
#define WUNENG_LOGIT_ROW(T)                                                                                \
  WUNENG_SIMD void logit_row(const LogitRows<T>& r, std::int64_t i) {                                      \
    const T* logits = r.logits + i * r.stride;                                                             \
    const std::int64_t target = r.targets[i];                                                              \
    const RowDescription<T> row = describe_row(logits, r.vocab);                                           \
    const T log_of_sum = std::log(row.sum), log_sum_exp = row.most + log_of_sum;                           \
    r.losses[i] = log_of_sum + (row.most - logits[target]);                                                \
    r.objectives[i] =                                                                                      \
        r.losses[i] + r.z_loss * log_sum_exp * log_sum_exp + r.pull * row.most * row.most / T(2);          \
    if (!r.gradient) return;                                                                               \
    const std::int64_t largest = std::find(logits, logits + r.vocab, row.most) - logits;                   \
    const T factor = (T(1) + T(2) * r.z_loss * log_sum_exp) / row.sum;                                     \
    T* gradient = r.gradient + i * r.stride;                                                               \
    for (std::int64_t c = 0; c < r.vocab; ++c) gradient[c] = factor * exponential(gradient[c] - row.most); \
    for (std::int64_t c = r.vocab; c < r.V; ++c) gradient[c] = T(0);                                       \
    gradient[target] -= T(1);                                                                              \
    if (largest < r.vocab) gradient[largest] += r.pull * row.most;                                         \
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
