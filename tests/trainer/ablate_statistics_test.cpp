// Student's t against its density integrated numerically, and intervals and verdicts against sums by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <random>

#include "trainer/ablate/statistics.h"

namespace wuneng::trainer::ablate {
namespace {

// P(|T| <= t) by Simpson's rule on the density.
double integrated(double t, double freedom) {
  const double scale = std::exp(std::lgamma((freedom + 1.0) / 2.0) - std::lgamma(freedom / 2.0)) /
                       std::sqrt(freedom * std::numbers::pi);
  const auto density = [&](double x) {
    return scale * std::pow(1.0 + x * x / freedom, -(freedom + 1.0) / 2.0);
  };
  constexpr int pieces = 20'000;
  const double h = t / pieces;
  double sum = density(0.0) + density(t);
  for (int i = 1; i < pieces; ++i) sum += (i % 2 ? 4.0 : 2.0) * density(i * h);
  return 2.0 * sum * h / 3.0;
}

TEST(AblateStatistics, StudentsTIsTheIntegralOfItsDensity) {
  for (const std::int64_t freedom : {1, 2, 3, 4, 5, 6, 7, 10, 19, 40})
    for (const double t : {0.1, 0.7, 1.0, 2.5, 4.3, 12.7}) {
      const double outside = 1.0 - integrated(t, static_cast<double>(freedom));
      EXPECT_NEAR(student_two_sided(t, freedom), outside, 1e-9) << t << ", " << freedom;
      EXPECT_EQ(student_two_sided(-t, freedom), student_two_sided(t, freedom));
    }
}

TEST(AblateStatistics, QuantilesAreThoseOfTheTables) {
  // Closed forms: tan(pi c / 2) for one degree of freedom, c sqrt(2 / (1 - c^2)) for two.
  EXPECT_NEAR(student_quantile(0.95, 1), std::tan(std::numbers::pi * 0.475), 1e-9);
  EXPECT_NEAR(student_quantile(0.95, 2), 0.95 * std::sqrt(2.0 / (1.0 - 0.95 * 0.95)), 1e-9);
  for (const std::int64_t freedom : {3, 4, 9, 30})
    for (const double level : {0.5, 0.9, 0.95, 0.99})
      EXPECT_NEAR(integrated(student_quantile(level, freedom), static_cast<double>(freedom)), level, 1e-9);
  // As every table prints them.
  EXPECT_NEAR(student_quantile(0.95, 2), 4.303, 5e-4);
  EXPECT_NEAR(student_quantile(0.95, 4), 2.776, 5e-4);
  EXPECT_NEAR(student_quantile(0.99, 9), 3.250, 5e-4);
}

TEST(AblateStatistics, AnIntervalIsMeanAndStandardErrorTimesT) {
  // Mean 2, variance 1, three values: standard error sqrt(1 / 3).
  const Interval interval = interval_of({1.0, 2.0, 3.0});
  const double t = 0.95 * std::sqrt(2.0 / (1.0 - 0.95 * 0.95));
  EXPECT_EQ(interval.count, 3);
  EXPECT_DOUBLE_EQ(interval.mean, 2.0);
  EXPECT_DOUBLE_EQ(interval.range, 2.0);
  EXPECT_NEAR(interval.half_width, t / std::sqrt(3.0), 1e-9);
  // Two degrees of freedom: P(|T| > t) = 1 - t / sqrt(2 + t^2).
  const double ratio = 2.0 * std::sqrt(3.0);
  EXPECT_NEAR(interval.p, 1.0 - ratio / std::sqrt(2.0 + ratio * ratio), 1e-12);
}

TEST(AblateStatistics, OneValueHasNoInterval) {
  const Interval one = interval_of({5.0}), none = interval_of({});
  EXPECT_EQ(one.mean, 5.0);
  EXPECT_EQ(one.half_width, std::numeric_limits<double>::infinity());
  EXPECT_EQ(one.p, 1.0);
  EXPECT_EQ(none.count, 0);
}

TEST(AblateStatistics, ACoverageOf95PercentIsKept) {
  // Triples of normal numbers of mean 0: 5 in 100 intervals miss it.
  std::mt19937_64 bits(1);
  std::normal_distribution<double> normal;
  std::int64_t missed = 0, all = 0;
  std::vector<double> values;
  for (int i = 0; i < 60'000; ++i) {
    values.push_back(normal(bits));
    if (values.size() < 3) continue;
    const Interval interval = interval_of(values);
    missed += interval.low() > 0.0 || interval.high() < 0.0;
    all += 1;
    values.clear();
  }
  EXPECT_NEAR(static_cast<double>(missed) / static_cast<double>(all), 0.05, 0.005);
}

TEST(AblateStatistics, HolmMultipliesTheSmallestBySoManyAsThereAre) {
  const std::vector<double> corrected = holm({0.04, 0.01, 0.02, 0.9});
  EXPECT_DOUBLE_EQ(corrected[1], 0.04);  // 4 x 0.01
  EXPECT_DOUBLE_EQ(corrected[2], 0.06);  // 3 x 0.02
  EXPECT_DOUBLE_EQ(corrected[0], 0.08);  // 2 x 0.04
  EXPECT_DOUBLE_EQ(corrected[3], 0.9);
  EXPECT_DOUBLE_EQ(holm({0.02, 0.021})[1], 0.04);  // never below the one before it
}

TEST(AblateStatistics, AVerdictNeedsSeedsAnIntervalAndMoreThanNoise) {
  const auto of = [](const std::vector<double>& differences) { return interval_of(differences); };
  constexpr double noise = 0.005;
  EXPECT_EQ(judge(of({-0.050, -0.052, -0.051}), noise, true), Verdict::better);
  EXPECT_EQ(judge(of({-0.050, -0.052, -0.051}), noise, false), Verdict::worse);
  EXPECT_EQ(judge(of({0.050, 0.052, 0.051}), noise, true), Verdict::worse);
  EXPECT_EQ(judge(of({-0.09, 0.01, -0.05}), noise, true), Verdict::indistinguishable);       // holds 0
  EXPECT_EQ(judge(of({-0.004, -0.0041, -0.004}), noise, true), Verdict::indistinguishable);  // below noise
  EXPECT_EQ(judge(of({-0.050, -0.0501}), noise, true), Verdict::too_few_seeds);
}

}  // namespace
}  // namespace wuneng::trainer::ablate
