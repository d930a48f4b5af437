// AdamW over the parameters' optimizer groups.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "parallel/flat_layout.h"
#include "parallel/parameters.h"

namespace wuneng::trainer {

struct OptimizerConfig {
  double lr = 1e-3;      // peak learning rate
  double min_lr = 1e-4;  // at the end of the schedule
  std::int64_t warmup_steps = 0;
  enum class Schedule { cosine, constant } schedule = Schedule::cosine;
  double beta1 = 0.9;
  double beta2 = 0.99;
  double eps = 1e-8;
  double weight_decay = 0.1;  // on the large matrices only
  double clip = 1.0;          // largest norm of the whole gradient; 0: no clipping
};

// Learning rate of step `step` (the first is 1) of `steps`: linear warm-up, then cosine from lr to min_lr, or
// constant.
double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t steps);

// Of the moments that AdamW keeps of every parameter.
inline constexpr const char* moment_names[] = {"exp_avg", "exp_avg_sq"};

class AdamW {
 public:
  // Updates layout.owned(), and keeps moments for it alone.
  AdamW(const OptimizerConfig& config, const parallel::Parameters& parameters,
        const parallel::FlatLayout& layout);

  // One update of the flat values with the flat gradient, each multiplied by `scale` first.
  void step(const at::Tensor& values, const at::Tensor& gradient, double lr, double scale);

  // What a resumed run needs beside the number of updates: the moments of layout.owned(), its ranges one
  // after the other, by the names that parameters' moments have: "<parameter>.exp_avg",
  // "<parameter>.exp_avg_sq".
  struct Moment {
    std::string name;
    at::Tensor owned;
  };
  const std::vector<Moment>& moments() const { return moments_; }
  std::int64_t updates() const { return updates_; }
  void set_updates(std::int64_t updates) { updates_ = updates; }

 private:
  // A run of neighbouring elements that are updated alike.
  struct Segment {
    std::int64_t flat, owned, size;  // where it begins in flat memory, and in the moments
    parallel::OptimizerGroup group;
  };
  OptimizerConfig config_;
  std::vector<Segment> segments_;
  std::vector<Moment> moments_;  // exp_avg, exp_avg_sq
  std::int64_t updates_ = 0;
};

}  // namespace wuneng::trainer
