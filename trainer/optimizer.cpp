#include "trainer/optimizer.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/adamw.h"

namespace wuneng::trainer {

double learning_rate(const OptimizerConfig& config, std::int64_t step, std::int64_t steps) {
  if (step <= config.warmup_steps)
    return config.lr * static_cast<double>(step) / static_cast<double>(config.warmup_steps);
  if (config.schedule == OptimizerConfig::Schedule::constant) return config.lr;
  const auto span = static_cast<double>(std::max<std::int64_t>(1, steps - config.warmup_steps));
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / span);
  return config.min_lr + 0.5 * (config.lr - config.min_lr) * (1.0 + std::cos(std::numbers::pi * progress));
}

AdamW::AdamW(const OptimizerConfig& config, const parallel::Parameters& parameters,
             const parallel::FlatLayout& layout)
    : config_(config) {
  std::int64_t owned = 0;
  for (const parallel::FlatLayout::Range& range : layout.owned()) {
    for (std::size_t i = 0; i < parameters.size(); ++i)
      if (const auto part = layout.part(i, range); part.size > 0)
        segments_.push_back({part.begin, owned + part.begin - range.begin, part.size, parameters[i].group});
    owned += range.size;
  }
  for (const char* name : moment_names)
    moments_.push_back({name, at::zeros({owned}, parameters.front().value.options().requires_grad(false))});
}

void AdamW::step(const at::Tensor& values, const at::Tensor& gradient, double lr, double scale) {
  ++updates_;
  for (const Segment& s : segments_)
    kernels::adamw(values.narrow(0, s.flat, s.size), gradient.narrow(0, s.flat, s.size),
                   moments_[0].owned.narrow(0, s.owned, s.size), moments_[1].owned.narrow(0, s.owned, s.size),
                   {.lr = lr * s.group.lr_scale,
                    .beta1 = config_.beta1,
                    .beta2 = config_.beta2,
                    .eps = config_.eps,
                    .weight_decay = s.group.weight_decay ? config_.weight_decay : 0.0,
                    .scale = scale,
                    .updates = updates_});
}

}  // namespace wuneng::trainer
