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

#define WUNENG_SHARD_ROW(T)                                                                           \
  WUNENG_SIMD RowSummary summary_of_row(const LogitRows<T>& r, std::int64_t i) {                      \
    const T* logits = r.logits + i * r.stride;                                                        \
    const std::int64_t target = r.targets[i];                                                         \
    const T target_logit = target >= 0 ? logits[target] : -std::numeric_limits<T>::infinity();        \
    const T most = maximum(logits, r.vocab);                                                          \
    const std::int64_t largest = r.pull != T(0) ? place_of(most, logits, r.vocab) : r.vocab;          \
    const T sum =                                                                                     \
        sum_of_exponentials(logits, r.vocab, most, r.gradient ? r.gradient + i * r.stride : nullptr); \
    return {most, static_cast<double>(largest), sum, target_logit};                                   \
  }                                                                                                   \
  WUNENG_SIMD void scale_row(const LogitRows<T>& r, std::int64_t i, T factor) {                       \
    T* gradient = r.gradient + i * r.stride;                                                          \
    for (std::int64_t c = 0; c < r.vocab; ++c) gradient[c] *= factor;                                 \
    for (std::int64_t c = r.vocab; c < r.V; ++c) gradient[c] = T(0);                                  \
  }
WUNENG_SHARD_ROW(float)
WUNENG_SHARD_ROW(double)
#undef WUNENG_SHARD_ROW

// The summary of a row's whole vocabulary; largest is then the shard that has the largest logit.
template <class T>
RowSummary joined(const LogitRows<T>& r, ShardSummaries all, std::int64_t i) {
  RowSummary whole = all.summaries[i];
  whole.largest = 0;
  for (std::int64_t s = 1; s < all.shards; ++s) {
    const RowSummary& part = all.summaries[s * r.rows + i];
    whole.target = std::max(whole.target, part.target);
    if (part.most > whole.most) whole.most = part.most, whole.largest = static_cast<double>(s);
  }
  whole.sum = 0.0;
  for (std::int64_t s = 0; s < all.shards; ++s) {
    const RowSummary& part = all.summaries[s * r.rows + i];
    whole.sum += part.sum * std::exp(part.most - whole.most);
  }
  return whole;
}

template <class T>
void finish_row(const LogitRows<T>& r, ShardSummaries all, std::int64_t i) {
  const RowSummary whole = joined(r, all, i), &mine = all.summaries[all.mine * r.rows + i];
  const double log_of_sum = std::log(whole.sum), log_sum_exp = whole.most + log_of_sum,
               loss = log_of_sum + (whole.most - whole.target);
  r.losses[i] = static_cast<T>(loss);
  r.objectives[i] =
      static_cast<T>(loss + r.z_loss * log_sum_exp * log_sum_exp + r.pull * whole.most * whole.most / 2.0);
  if (!r.gradient) return;
  scale_row(
      r, i,
      static_cast<T>((1.0 + 2.0 * r.z_loss * log_sum_exp) * std::exp(mine.most - whole.most) / whole.sum));
  T* gradient = r.gradient + i * r.stride;
  if (r.targets[i] >= 0) gradient[r.targets[i]] -= T(1);
  if (r.pull != T(0) && static_cast<std::int64_t>(whole.largest) == all.mine)
    gradient[static_cast<std::int64_t>(mine.largest)] += static_cast<T>(r.pull * whole.most);
}

template <class T>
void no_token(const LogitRows<T>& r, std::int64_t i) {
  r.losses[i] = r.objectives[i] = T(0);
  if (r.gradient) std::fill_n(r.gradient + i * r.stride, r.V, T(0));
}

template <class T>
void summaries(const LogitRows<T>& r, RowSummary* summary, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i)
    summary[i] = r.targets[i] >= 0 || r.targets[i] == target_elsewhere ? summary_of_row(r, i) : RowSummary{};
}

template <class T>
void finish(const LogitRows<T>& r, ShardSummaries all, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i)
    if (r.targets[i] >= 0 || r.targets[i] == target_elsewhere)
      finish_row(r, all, i);
    else
      no_token(r, i);
}

template <class T>
void rows(const LogitRows<T>& r, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = first; i < last; ++i) {
    if (r.targets[i] >= 0)
      logit_row(r, i);
    else
      no_token(r, i);
  }
}

}  // namespace

void logit_rows(const LogitRows<float>& r, std::int64_t first, std::int64_t last) { rows(r, first, last); }
void logit_rows(const LogitRows<double>& r, std::int64_t first, std::int64_t last) { rows(r, first, last); }

void summarise_rows(const LogitRows<float>& r, RowSummary* summary, std::int64_t first, std::int64_t last) {
  summaries(r, summary, first, last);
}
void summarise_rows(const LogitRows<double>& r, RowSummary* summary, std::int64_t first, std::int64_t last) {
  summaries(r, summary, first, last);
}

void finish_rows(const LogitRows<float>& r, ShardSummaries all, std::int64_t first, std::int64_t last) {
  finish(r, all, first, last);
}
void finish_rows(const LogitRows<double>& r, ShardSummaries all, std::int64_t first, std::int64_t last) {
  finish(r, all, first, last);
}

}  // namespace wuneng::kernels
