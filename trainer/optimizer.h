// AdamW over the parameters' optimizer groups.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

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

class AdamW {
 public:
  AdamW(const OptimizerConfig& config, const parallel::Parameters& parameters);

  // One update with the gradients in `gradients` (one tensor per parameter, same order), each multiplied by
  // `scale` first.
  void step(const std::vector<at::Tensor>& gradients, double lr, double scale);

  // Everything a resumed run needs, by name: "<parameter>.exp_avg", "<parameter>.exp_avg_sq"; and the number
  // of updates made.
  std::vector<std::pair<std::string, at::Tensor>> state() const;
  std::int64_t updates() const { return updates_; }
  void set_updates(std::int64_t updates) { updates_ = updates; }

 private:
  struct Group {
    parallel::OptimizerGroup options;
    std::vector<std::size_t> indices;  // into the parameters
    std::vector<at::Tensor> values, exp_avgs, exp_avg_sqs;
  };
  OptimizerConfig config_;
  std::vector<std::string> names_;
  std::vector<Group> groups_;
  std::int64_t updates_ = 0;
};

}  // namespace wuneng::trainer
