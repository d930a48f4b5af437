#include "kernels/norm.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/composed.h"
#include "kernels/op.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// ---------------------------------------------------------------- one row ----

// Sizes of a norm: tokens of H rows, each of N channels with its own row of the weight.
struct Sizes {
  std::int64_t tokens, H, N;
  double eps;
};

template <class T, bool centred>
WUNENG_INLINE void normalise_row(const T* x, const T* weight, const T* bias, std::int64_t N, double eps, T* y,
                                 T* stats) {
  const T mean = centred ? lane_sum<T>(N, [&](std::int64_t i) { return x[i]; }) / T(N) : T(0);
  const T variance = lane_sum<T>(N, [&](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / T(N);
  const T scale = T(1) / std::sqrt(variance + T(eps));
  for (std::int64_t i = 0; i < N; ++i) y[i] = (x[i] - mean) * scale * weight[i] + (centred ? bias[i] : T(0));
  stats[0] = scale;
  if (centred) stats[1] = mean;
}

// dx of one row, and the row's share of the gradients of weight and bias added to theirs.
template <class T, bool centred>
WUNENG_INLINE void differentiate_row(const T* dy, const T* x, const T* weight, const T* stats, std::int64_t N,
                                     T* dx, T* dweight, T* dbias) {
  const T scale = stats[0], mean = centred ? stats[1] : T(0);
  const T projection = lane_sum<T>(N, [&](std::int64_t i) { return dy[i] * weight[i] * (x[i] - mean); }) *
                       scale * scale / T(N);
  const T shift = centred ? lane_sum<T>(N, [&](std::int64_t i) { return dy[i] * weight[i]; }) / T(N) : T(0);
  for (std::int64_t i = 0; i < N; ++i)
    dx[i] = scale * (dy[i] * weight[i] - shift - (x[i] - mean) * projection);
  for (std::int64_t i = 0; i < N; ++i) dweight[i] += dy[i] * (x[i] - mean) * scale;
  if (centred)
    for (std::int64_t i = 0; i < N; ++i) dbias[i] += dy[i];
}

// ------------------------------------------------------------ rows of tokens ----

template <class T, bool centred>
WUNENG_INLINE void normalise(const T* x, const T* weight, const T* bias, const Sizes& s, std::int64_t first,
                             std::int64_t last, T* y, T* stats) {
  constexpr int kept = centred ? 2 : 1;
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t h = (row % s.H) * s.N;
    normalise_row<T, centred>(x + row * s.N, weight + h, bias + h, s.N, s.eps, y + row * s.N,
                              stats + row * kept);
  }
}

template <class T, bool centred>
WUNENG_INLINE void differentiate(const T* dy, const T* x, const T* weight, const T* stats, const Sizes& s,
                                 std::int64_t first, std::int64_t last, T* dx, T* dweight, T* dbias) {
  constexpr int kept = centred ? 2 : 1;
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t h = (row % s.H) * s.N;
    differentiate_row<T, centred>(dy + row * s.N, x + row * s.N, weight + h, stats + row * kept, s.N,
                                  dx + row * s.N, dweight + h, dbias + h);
  }
}

#define WUNENG_NORM_ROWS(T)                                                                                \
  WUNENG_SIMD void norm_rows(bool centred, const T* x, const T* w, const T* b, const Sizes& s,             \
                             std::int64_t first, std::int64_t last, T* y, T* stats) {                      \
    centred ? normalise<T, true>(x, w, b, s, first, last, y, stats)                                        \
            : normalise<T, false>(x, w, b, s, first, last, y, stats);                                      \
  }                                                                                                        \
  WUNENG_SIMD void norm_rows_backward(bool centred, const T* dy, const T* x, const T* w, const T* stats,   \
                                      const Sizes& s, std::int64_t first, std::int64_t last, T* dx, T* dw, \
                                      T* db) {                                                             \
    centred ? differentiate<T, true>(dy, x, w, stats, s, first, last, dx, dw, db)                          \
            : differentiate<T, false>(dy, x, w, stats, s, first, last, dx, dw, db);                        \
  }
WUNENG_NORM_ROWS(float)
WUNENG_NORM_ROWS(double)
#undef WUNENG_NORM_ROWS

// ------------------------------------------------------------------- autograd ----

Sizes sizes_of(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const std::int64_t N = weight.size(-1), H = weight.dim() == 2 ? weight.size(0) : 1;
  return {x.numel() / (H * N), H, N, eps};
}

struct NormFunction : torch::autograd::Function<NormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias, double eps) {
    const bool centred = bias.has_value();
    const Sizes s = sizes_of(x, weight, eps);
    const at::Tensor y = at::empty(x.sizes(), x.options());
    const at::Tensor stats = at::empty({s.tokens * s.H, centred ? 2 : 1}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "norm", [&] {
      const auto* b = centred ? bias->const_data_ptr<scalar_t>() : nullptr;
      for_row_blocks(s.tokens, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        norm_rows(centred, x.const_data_ptr<scalar_t>(), weight.const_data_ptr<scalar_t>(), b, s, first, last,
                  y.mutable_data_ptr<scalar_t>(), stats.mutable_data_ptr<scalar_t>());
      });
    });
    context->save_for_backward({x, weight, stats});
    context->saved_data["eps"] = eps;
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &stats = saved[2];
    const bool centred = stats.size(1) == 2;
    const at::Tensor dy = dense(gradients[0]);
    const Sizes s = sizes_of(x, weight, context->saved_data["eps"].toDouble());
    const at::Tensor dx = at::empty(x.sizes(), x.options());
    const at::Tensor dw = at::zeros({row_blocks(s.tokens), s.H * s.N}, x.options());
    const at::Tensor db = at::zeros({row_blocks(s.tokens), centred ? s.H * s.N : 0}, x.options());
    at::Tensor weight_gradient, bias_gradient;
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "norm_backward", [&] {
      for_row_blocks(s.tokens, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        norm_rows_backward(centred, dy.const_data_ptr<scalar_t>(), x.const_data_ptr<scalar_t>(),
                           weight.const_data_ptr<scalar_t>(), stats.const_data_ptr<scalar_t>(), s, first,
                           last, dx.mutable_data_ptr<scalar_t>(),
                           dw.mutable_data_ptr<scalar_t>() + block * dw.size(1),
                           db.mutable_data_ptr<scalar_t>() + block * db.size(1));
      });
      weight_gradient = sum_blocks<scalar_t>(dw).view(weight.sizes());
      if (centred) bias_gradient = sum_blocks<scalar_t>(db).view(weight.sizes());
    });
    return {dx, weight_gradient, bias_gradient, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_input("rms_norm", "x", x, x.sizes(), x);
  check_input("rms_norm", "weight", weight, {x.size(-1)}, x);
  if (!x.is_cpu()) return composed::rms_norm(x, weight, eps);
  return NormFunction::apply(x, weight, std::optional<at::Tensor>(), eps);
}

at::Tensor layer_norm(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps) {
  check_input("layer_norm", "x", x, x.sizes(), x);
  check_input("layer_norm", "weight", weight, {x.size(-1)}, x);
  check_input("layer_norm", "bias", bias, {x.size(-1)}, x);
  if (!x.is_cpu()) return composed::layer_norm(x, weight, bias, eps);
  return NormFunction::apply(x, weight, optional(bias), eps);
}

at::Tensor head_rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  check_input("head_rms_norm", "x", x, x.sizes(), x);
  WN_CHECK(x.dim() >= 2, "head_rms_norm: x has shape {}, expected [..., H, N]", shape_text(x));
  check_input("head_rms_norm", "weight", weight, {x.size(-2), x.size(-1)}, x);
  if (!x.is_cpu()) return composed::rms_norm(x, weight, eps);
  return NormFunction::apply(x, weight, std::optional<at::Tensor>(), eps);
}

}  // namespace wuneng::kernels
