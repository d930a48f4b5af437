#include "kernels/composed.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <limits>

namespace wuneng::kernels::composed {

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  if (weight.dim() == 1) return at::rms_norm(x, weight.sizes(), weight, eps);
  return at::rms_norm(x, {x.size(-1)}, {}, eps).mul(weight);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  return at::layer_norm(x, weight.sizes(), weight, bias, eps);
}

// Angles in float64, their cosines and sines in float32 at least.
at::Tensor rope(const at::Tensor& x, std::int64_t first_position, double base, double step) {
  const std::int64_t T = x.size(1), N = x.size(3);
  const at::TensorOptions wide = x.options().dtype(at::kDouble);
  const at::Tensor frequency = at::pow(base, at::arange(0, N, 2, wide).div(-static_cast<double>(N)));
  const at::Tensor position = at::arange(first_position, first_position + T, wide).mul(step);
  const at::Tensor angle = position.view({T, 1, 1}).mul(frequency);  // [T, 1, N / 2]
  const at::ScalarType dtype = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor c = angle.cos().to(dtype), s = angle.sin().to(dtype);
  const at::Tensor a = x.narrow(-1, 0, N / 2), b = x.narrow(-1, N / 2, N / 2);
  return at::cat({a.mul(c).sub(b.mul(s)), b.mul(c).add(a.mul(s))}, -1).to(x.scalar_type());
}

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate).mul(up); }

at::Tensor squared_relu(const at::Tensor& x) { return x.relu().square(); }

void adamw(const at::Tensor& value, const at::Tensor& gradient, const at::Tensor& exp_avg,
           const at::Tensor& exp_avg_sq, const AdamWStep& step) {
  const auto number = [&](double x) { return at::full({}, x, value.options()); };
  at::_fused_adamw_(value, gradient, exp_avg, exp_avg_sq, {}, number(static_cast<double>(step.updates)),
                    step.lr, step.beta1, step.beta2, step.weight_decay, step.eps, /*amsgrad=*/false,
                    /*maximize=*/false, /*grad_scale=*/number(1.0 / step.scale));  // which divides
}

at::Tensor sums_of_squares(const at::Tensor& x, std::int64_t block) {
  return x.view({-1, block}).to(at::kDouble).square().sum(1).to(at::kCPU);
}

void shard_rows(const ShardRows& r, const VocabularyShard& shard) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor z = r.logits.narrow(1, 0, r.vocab);
  const at::Tensor real = r.targets.ne(-1), here = r.targets.ge(0);
  const at::Tensor column = r.targets.mul(here).unsqueeze(1);  // of another shard's target: 0, not used
  const auto [most, largest] = z.max(1);
  const at::Tensor e = z.sub(most.unsqueeze(1)).exp();
  const at::Tensor mine =
      at::stack({most.to(at::kDouble), largest.to(at::kDouble), e.sum(1, false, at::kDouble),
                 at::where(here, z.gather(1, column).squeeze(1).to(at::kDouble), -infinity)},
                1);
  const auto of_all = shard.gather(mine).unbind(2);  // most, largest, sum, target: [shards, n] each
  const auto [highest, holder] = of_all[0].max(0);
  const at::Tensor sum = of_all[2].mul(of_all[0].sub(highest).exp()).sum(0), log_sum = sum.log(),
                   log_sum_exp = highest.add(log_sum),
                   losses = log_sum.add(highest).sub(std::get<0>(of_all[3].max(0)));
  r.losses.copy_(at::where(real, losses, 0.0));
  r.objectives.copy_(at::where(real,
                               losses.add(log_sum_exp.square().mul(r.penalties.z_loss))
                                   .add(highest.square().mul(0.5 * r.penalties.pull)),
                               0.0));
  if (!r.gradient.defined()) return;
  const at::TensorOptions narrow = z.options();
  const at::Tensor factor = most.to(at::kDouble)
                                .sub(highest)
                                .exp()
                                .mul(log_sum_exp.mul(2.0 * r.penalties.z_loss).add(1.0))
                                .div(sum)
                                .to(narrow);
  at::Tensor d = e.mul(factor.unsqueeze(1));
  d.scatter_add_(1, column, here.to(narrow).neg().unsqueeze(1));
  d.scatter_add_(1, largest.unsqueeze(1),
                 highest.mul(r.penalties.pull).mul(holder.eq(shard.mine)).to(narrow).unsqueeze(1));
  r.gradient.zero_();
  r.gradient.narrow(1, 0, r.vocab).copy_(at::where(real.unsqueeze(1), d, 0.0));
}

}  // namespace wuneng::kernels::composed
