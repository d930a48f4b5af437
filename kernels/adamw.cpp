#include "kernels/adamw.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "kernels/composed.h"
#include "kernels/op.h"
#include "kernels/simd.h"

namespace wuneng::kernels {
namespace {

constexpr std::int64_t block = 1024;

struct Factors {
  float scale, keep, beta1, rest1, beta2, rest2, rate, root, eps;
};

Factors factors_of(const AdamWStep& s) {
  const double bias1 = 1.0 - std::pow(s.beta1, static_cast<double>(s.updates)),
               bias2 = 1.0 - std::pow(s.beta2, static_cast<double>(s.updates));
  const auto f = [](double x) { return static_cast<float>(x); };
  return {f(s.scale),      f(1.0 - s.lr * s.weight_decay),
          f(s.beta1),      f(1.0 - s.beta1),
          f(s.beta2),      f(1.0 - s.beta2),
          f(s.lr / bias1), f(1.0 / std::sqrt(bias2)),
          f(s.eps)};
}

// Explicit fused products: compilers fuse them in vectors, but not always in what is left over.
WUNENG_INLINE void update(float& w, float gradient, float& m, float& v, const Factors& f) {
  const float g = gradient * f.scale;
  m = std::fma(f.beta1, m, f.rest1 * g);
  v = std::fma(f.beta2, v, f.rest2 * (g * g));
  const float step = f.rate * m / std::fma(std::sqrt(v), f.root, f.eps);
  w = std::fma(w, f.keep, -step);
}

WUNENG_SIMD void update_block(float* w, const float* g, float* m, float* v, std::int64_t n, Factors f) {
  for (std::int64_t i = 0; i < n; ++i) update(w[i], g[i], m[i], v[i], f);
}

}  // namespace

void adamw(const at::Tensor& value, const at::Tensor& gradient, const at::Tensor& exp_avg,
           const at::Tensor& exp_avg_sq, const AdamWStep& step) {
  const std::int64_t n = value.numel();
  for (const at::Tensor* x : {&value, &gradient, &exp_avg, &exp_avg_sq})
    WN_CHECK(x->device() == value.device() && x->is_contiguous() && x->scalar_type() == at::kFloat &&
                 x->numel() == n,
             "adamw: a tensor of shape {} and dtype {} on {}, expected {} contiguous float32 on {}",
             shape_text(*x), c10::toString(x->scalar_type()), x->device().str(), n, value.device().str());
  if (!value.is_cpu()) return composed::adamw(value, gradient, exp_avg, exp_avg_sq, step);
  const Factors factors = factors_of(step);
  auto *w = value.mutable_data_ptr<float>(), *m = exp_avg.mutable_data_ptr<float>(),
       *v = exp_avg_sq.mutable_data_ptr<float>();
  const auto* g = gradient.const_data_ptr<float>();
  at::parallel_for(0, (n + block - 1) / block, 32, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin * block; b < std::min(n, end * block); b += block)
      update_block(w + b, g + b, m + b, v + b, std::min(block, n - b), factors);
  });
}

}  // namespace wuneng::kernels
