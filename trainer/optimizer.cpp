#include "trainer/optimizer.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/check.h"

namespace wuneng::trainer {

double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t steps) {
  if (step <= config.warmup_steps)
    return config.lr * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.schedule == OptimizerConfig::Schedule::constant) return config.lr;
  const auto span = static_cast<double>(std::max<std::int64_t>(1, steps - config.warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / span);
  return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1.0 + std::cos(std::numbers::pi * progress));
}

AdamW::AdamW(const OptimizerConfig& config, const parallel::Parameters& parameters) : config_(config) {
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const parallel::Parameter& parameter = parameters[i];
    names_.push_back(parameter.name);
    auto group = std::find_if(groups_.begin(), groups_.end(),
                              [&](const Group& g) { return g.options == parameter.group; });
    if (group == groups_.end()) group = groups_.insert(groups_.end(), Group{parameter.group, {}, {}, {}, {}});
    group->indices.push_back(i);
    group->values.push_back(parameter.value.detach());
    group->exp_avgs.push_back(at::zeros_like(group->values.back()));
    group->exp_avg_sqs.push_back(at::zeros_like(group->values.back()));
  }
}

void AdamW::step(const std::vector<at::Tensor>& gradients, double lr, double scale) {
  WN_CHECK(gradients.size() == names_.size(), "AdamW: {} gradients for {} parameters", gradients.size(),
           names_.size());
  ++updates_;
  for (Group& group : groups_) {
    std::vector<at::Tensor> group_gradients;
    for (std::size_t i : group.indices) group_gradients.push_back(gradients[i].mul_(scale));
    // The operator reads the number of updates from a tensor per parameter.
    std::vector<at::Tensor> updates(group.values.size(),
                                    at::full({}, static_cast<double>(updates_), at::kFloat));
    at::_fused_adamw_(group.values, group_gradients, group.exp_avgs, group.exp_avg_sqs, {}, updates,
                      lr * group.options.lr_scale, config_.beta1, config_.beta2,
                      group.options.weight_decay ? config_.weight_decay : 0.0, config_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }
}

std::vector<std::pair<std::string, at::Tensor>> AdamW::state() const {
  std::vector<std::pair<std::string, at::Tensor>> tensors(2 * names_.size());
  for (const Group& group : groups_)
    for (std::size_t j = 0; j < group.indices.size(); ++j) {
      const std::size_t i = group.indices[j];
      tensors[2 * i] = {names_[i] + ".exp_avg", group.exp_avgs[j]};
      tensors[2 * i + 1] = {names_[i] + ".exp_avg_sq", group.exp_avg_sqs[j]};
    }
  return tensors;
}

}  // namespace wuneng::trainer
