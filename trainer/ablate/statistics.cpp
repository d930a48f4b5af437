#include "trainer/ablate/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "common/check.h"

namespace wuneng::trainer::ablate {

// Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4: a finite series in the angle
// whose tangent is t / sqrt(freedom).
double student_two_sided(double t, std::int64_t freedom) {
  WN_CHECK(freedom >= 1, "student: {} degrees of freedom", freedom);
  const double angle = std::atan(std::abs(t) / std::sqrt(static_cast<double>(freedom)));
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const bool odd = freedom % 2 == 1;
  double term = odd ? cosine : 1.0, sum = freedom == 1 ? 0.0 : term;
  for (std::int64_t k = odd ? 3 : 2; k < freedom; k += 2) {
    term *= static_cast<double>(k - 1) / static_cast<double>(k) * cosine * cosine;
    sum += term;
  }
  const double inside = odd ? 2.0 / std::numbers::pi * (angle + sine * sum) : sine * sum;
  return std::max(0.0, 1.0 - inside);
}

double student_quantile(double confidence, std::int64_t freedom) {
  WN_CHECK(confidence > 0.0 && confidence < 1.0, "student: a confidence of {}", confidence);
  double low = 0.0, high = 1.0;
  while (student_two_sided(high, freedom) > 1.0 - confidence) high *= 2.0;
  for (int halving = 0; halving < 100; ++halving) {
    const double middle = 0.5 * (low + high);
    (student_two_sided(middle, freedom) > 1.0 - confidence ? low : high) = middle;
  }
  return high;
}

Interval interval_of(const std::vector<double>& values) {
  Interval result;
  result.count = static_cast<std::int64_t>(values.size());
  result.half_width = std::numeric_limits<double>::infinity();
  if (values.empty()) return result;
  const auto n = static_cast<double>(values.size());
  result.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  const auto [smallest, largest] = std::minmax_element(values.begin(), values.end());
  result.range = *largest - *smallest;
  if (values.size() < 2) return result;
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  const double error = std::sqrt(squares / (n - 1.0) / n);  // of the mean
  result.half_width = student_quantile(confidence, result.count - 1) * error;
  if (error > 0.0) {
    result.p = student_two_sided(result.mean / error, result.count - 1);
  } else if (result.mean != 0.0) {
    result.p = 0.0;
  }
  return result;
}

std::vector<double> holm(const std::vector<double>& p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::sort(order, {}, [&](std::size_t i) { return p[i]; });
  std::vector<double> corrected(p.size());
  double before = 0.0;
  for (std::size_t rank = 0; rank < order.size(); ++rank) {
    const double factor = static_cast<double>(order.size() - rank);
    before = std::max(before, std::min(1.0, factor * p[order[rank]]));
    corrected[order[rank]] = before;
  }
  return corrected;
}

Verdict judge(const Interval& difference, double noise, bool lower_is_better) {
  if (difference.count < fewest_seeds) return Verdict::too_few_seeds;
  const bool apart = difference.low() > 0.0 || difference.high() < 0.0;
  if (!apart || std::abs(difference.mean) <= noise) return Verdict::indistinguishable;
  return (difference.mean < 0.0) == lower_is_better ? Verdict::better : Verdict::worse;
}

}  // namespace wuneng::trainer::ablate
