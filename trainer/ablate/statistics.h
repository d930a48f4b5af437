// What a few seeds can tell: means, intervals, and differences paired by seed.
#pragma once

#include <cstdint>
#include <vector>

namespace wuneng::trainer::ablate {

// Of Student's t distribution with a whole number of degrees of freedom, at least 1.
double student_two_sided(double t, std::int64_t freedom);          // P(|T| > |t|)
double student_quantile(double confidence, std::int64_t freedom);  // the t with P(|T| <= t) = confidence

constexpr double confidence = 0.95;  // of every interval in a report

struct Interval {
  std::int64_t count = 0;  // of values
  double mean = 0.0;
  double half_width = 0.0;  // of the t interval; infinite for fewer than two values
  double range = 0.0;       // largest minus smallest value
  double p = 1.0;           // two-sided, of a t test that the mean is 0; 1 for fewer than two values

  double low() const { return mean - half_width; }
  double high() const { return mean + half_width; }
};

// Mean and 95 % t interval of values that are taken as independent draws of one normal distribution.
Interval interval_of(const std::vector<double>& values);

// Holm's step-down correction: what each p becomes when all of them are looked at together.
std::vector<double> holm(const std::vector<double>& p);

enum class Verdict { better, worse, indistinguishable, too_few_seeds };

constexpr std::int64_t fewest_seeds = 3;

// `difference`: variant minus reference, paired by seed. Better or worse when there are three seeds or more,
// the interval leaves 0 out, and the mean is further from 0 than `noise`.
Verdict judge(const Interval& difference, double noise, bool lower_is_better);

}  // namespace wuneng::trainer::ablate
