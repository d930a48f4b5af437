#include "kernels/state_head.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/op.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double decay_scale = 0.60653065971263342;  // e^{-1/2}
constexpr double smallest_norm = 1e-12;

struct Sizes {
  std::int64_t tokens, H, N;
};

Sizes sizes_of(const at::Tensor& x) { return {x.size(0) * x.size(1), x.size(2), x.size(3)}; }

// --------------------------------------------------------------- preparation ----

template <class T>
struct Preparation {
  const T *decay_logit, *rate_logit, *k;  // [tokens, H, N]
  const T *removal, *replacement;         // [H, N]
  T *log_decay, *new_k, *a, *b;           // [tokens, H, N]
};

template <class T>
struct PreparationGradient {
  const T *d_log_decay, *d_new_k, *d_a, *d_b;  // [tokens, H, N], any may be null (zero)
  T *d_decay_logit, *d_rate_logit, *d_k;       // [tokens, H, N]
};

template <class T>
WUNENG_INLINE T removal_norm(const T* k, const T* removal, std::int64_t N) {
  return std::sqrt(lane_sum<T>(N, [&](std::int64_t i) { return (k[i] * removal[i]) * (k[i] * removal[i]); }));
}

template <class T>
WUNENG_INLINE void prepare(const Preparation<T>& p, const Sizes& s, std::int64_t first, std::int64_t last) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const T *k = p.k + at, *removal = p.removal + h, *replacement = p.replacement + h;
    const T norm = removal_norm(k, removal, s.N);
    const T inverse = T(1) / (norm > T(smallest_norm) ? norm : T(smallest_norm));
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T alpha = sigmoid(p.rate_logit[at + i]), kappa = k[i] * removal[i] * inverse;
      p.log_decay[at + i] = T(-decay_scale) * sigmoid(p.decay_logit[at + i]);
      p.new_k[at + i] = k[i] * (T(1) + (alpha - T(1)) * replacement[i]);
      p.a[at + i] = -kappa;
      p.b[at + i] = kappa * alpha;
    }
  }
}

template <class T>
WUNENG_INLINE void prepare_backward(const Preparation<T>& p, const PreparationGradient<T>& g, const Sizes& s,
                                    std::int64_t first, std::int64_t last, T* d_removal, T* d_replacement) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const T *k = p.k + at, *removal = p.removal + h, *replacement = p.replacement + h;
    const T *d_new_k = g.d_new_k + at, *d_a = g.d_a + at, *d_b = g.d_b + at;
    const T norm = removal_norm(k, removal, s.N);
    const bool projected =
        norm > T(smallest_norm);  // below, kappa is linear in k and its gradient is not projected
    const T inverse = T(1) / (projected ? norm : T(smallest_norm));
    const auto d_kappa = [&](std::int64_t i) { return d_b[i] * sigmoid(p.rate_logit[at + i]) - d_a[i]; };
    const T along =
        projected ? lane_sum<T>(s.N, [&](std::int64_t i) { return d_kappa(i) * k[i] * removal[i] * inverse; })
                  : T(0);
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T alpha = sigmoid(p.rate_logit[at + i]), decay = sigmoid(p.decay_logit[at + i]);
      const T kappa = k[i] * removal[i] * inverse;
      const T d_removed = (d_kappa(i) - kappa * along) * inverse;
      const T d_alpha = d_b[i] * kappa + d_new_k[i] * k[i] * replacement[i];
      g.d_decay_logit[at + i] = g.d_log_decay[at + i] * T(-decay_scale) * decay * (T(1) - decay);
      g.d_rate_logit[at + i] = d_alpha * alpha * (T(1) - alpha);
      g.d_k[at + i] = d_new_k[i] * (T(1) + (alpha - T(1)) * replacement[i]) + d_removed * removal[i];
      d_removal[h + i] += d_removed * k[i];
      d_replacement[h + i] += d_new_k[i] * k[i] * (alpha - T(1));
    }
  }
}

// ------------------------------------------------------------------ epilogue ----

template <class T>
struct Epilogue {
  const T *y, *r, *k, *v, *gate;   // [tokens, H, N]
  const T *bonus, *weight, *bias;  // [H, N]
  T eps;
};

template <class T>
struct RowStats {
  T mean, scale, bonus;
};

template <class T>
WUNENG_INLINE RowStats<T> row_stats(const Epilogue<T>& e, std::int64_t at, std::int64_t h, std::int64_t N) {
  const T* y = e.y + at;
  const T mean = lane_sum<T>(N, [&](std::int64_t i) { return y[i]; }) / T(N);
  const T variance = lane_sum<T>(N, [&](std::int64_t i) { return (y[i] - mean) * (y[i] - mean); }) / T(N);
  const T bonus = lane_sum<T>(N, [&](std::int64_t i) { return e.r[at + i] * e.k[at + i] * e.bonus[h + i]; });
  return {mean, T(1) / std::sqrt(variance + e.eps), bonus};
}

template <class T>
WUNENG_INLINE void finish(const Epilogue<T>& e, const Sizes& s, std::int64_t first, std::int64_t last,
                          T* out) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const RowStats<T> stats = row_stats(e, at, h, s.N);
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T normal = (e.y[at + i] - stats.mean) * stats.scale * e.weight[h + i] + e.bias[h + i];
      out[at + i] = (normal + stats.bonus * e.v[at + i]) * e.gate[at + i];
    }
  }
}

template <class T>
struct EpilogueGradient {
  T *d_y, *d_r, *d_k, *d_v, *d_gate;  // [tokens, H, N]
  T *d_bonus, *d_weight, *d_bias;     // [H, N], sums of this block
};

template <class T>
WUNENG_INLINE void finish_backward(const Epilogue<T>& e, const T* d_out, const EpilogueGradient<T>& g,
                                   const Sizes& s, std::int64_t first, std::int64_t last) {
  for (std::int64_t row = first * s.H; row < last * s.H; ++row) {
    const std::int64_t at = row * s.N, h = (row % s.H) * s.N;
    const RowStats<T> stats = row_stats(e, at, h, s.N);
    const T *d = d_out + at, *gate = e.gate + at, *y = e.y + at, *weight = e.weight + h;
    const auto d_normal = [&](std::int64_t i) { return d[i] * gate[i] * weight[i]; };
    const T d_bonus = lane_sum<T>(s.N, [&](std::int64_t i) { return d[i] * gate[i] * e.v[at + i]; });
    const T shift = lane_sum<T>(s.N, d_normal) / T(s.N);
    const T projection = lane_sum<T>(s.N, [&](std::int64_t i) { return d_normal(i) * (y[i] - stats.mean); }) *
                         stats.scale * stats.scale / T(s.N);
    for (std::int64_t i = 0; i < s.N; ++i) {
      const T centred = y[i] - stats.mean, normal = centred * stats.scale, inner = d[i] * gate[i];
      g.d_gate[at + i] = d[i] * (normal * weight[i] + e.bias[h + i] + stats.bonus * e.v[at + i]);
      g.d_y[at + i] = stats.scale * (inner * weight[i] - shift - centred * projection);
      g.d_v[at + i] = inner * stats.bonus;
      g.d_r[at + i] = d_bonus * e.k[at + i] * e.bonus[h + i];
      g.d_k[at + i] = d_bonus * e.r[at + i] * e.bonus[h + i];
      g.d_bonus[h + i] += d_bonus * e.r[at + i] * e.k[at + i];
      g.d_weight[h + i] += inner * normal;
      g.d_bias[h + i] += inner;
    }
  }
}

#define WUNENG_STATE_HEAD_ROWS(T)                                                                            \
  WUNENG_SIMD void prepare_rows(const Preparation<T>& p, const Sizes& s, std::int64_t first,                 \
                                std::int64_t last) {                                                         \
    prepare(p, s, first, last);                                                                              \
  }                                                                                                          \
  WUNENG_SIMD void prepare_rows_backward(const Preparation<T>& p, const PreparationGradient<T>& g,           \
                                         const Sizes& s, std::int64_t first, std::int64_t last,              \
                                         T* d_removal, T* d_replacement) {                                   \
    prepare_backward(p, g, s, first, last, d_removal, d_replacement);                                        \
  }                                                                                                          \
  WUNENG_SIMD void finish_rows(const Epilogue<T>& e, const Sizes& s, std::int64_t first, std::int64_t last,  \
                               T* out) {                                                                     \
    finish(e, s, first, last, out);                                                                          \
  }                                                                                                          \
  WUNENG_SIMD void finish_rows_backward(const Epilogue<T>& e, const T* d_out, const EpilogueGradient<T>& g,  \
                                        const Sizes& s, std::int64_t first, std::int64_t last) {             \
    finish_backward(e, d_out, g, s, first, last);                                                            \
  }                                                                                                          \
  WUNENG_SIMD void mix_loop(const T* v, const T* first, const T* logit, std::int64_t n, T* out) {            \
    for (std::int64_t i = 0; i < n; ++i) out[i] = v[i] + (first[i] - v[i]) * sigmoid(logit[i]);              \
  }                                                                                                          \
  WUNENG_SIMD void mix_backward_loop(const T* d, const T* v, const T* first, const T* logit, std::int64_t n, \
                                     T* dv, T* dfirst, T* dlogit) {                                          \
    for (std::int64_t i = 0; i < n; ++i) {                                                                   \
      const T share = sigmoid(logit[i]);                                                                     \
      dv[i] = d[i] * (T(1) - share);                                                                         \
      dfirst[i] = d[i] * share;                                                                              \
      dlogit[i] = d[i] * (first[i] - v[i]) * share * (T(1) - share);                                         \
    }                                                                                                        \
  }
WUNENG_STATE_HEAD_ROWS(float)
WUNENG_STATE_HEAD_ROWS(double)
#undef WUNENG_STATE_HEAD_ROWS

// ------------------------------------------------------------------ autograd ----

at::Tensor like(const at::Tensor& x) { return at::empty(x.sizes(), x.options()); }

// A gradient that did not arrive is zero.
at::Tensor dense_or_zero(const at::Tensor& gradient, const at::Tensor& shape) {
  return gradient.defined() ? dense(gradient) : at::zeros(shape.sizes(), shape.options());
}

struct Prepare : torch::autograd::Function<Prepare> {
  template <class T>
  static Preparation<T> inputs(const variable_list& in) {
    return {in[0].const_data_ptr<T>(),
            in[1].const_data_ptr<T>(),
            in[2].const_data_ptr<T>(),
            in[3].const_data_ptr<T>(),
            in[4].const_data_ptr<T>(),
            nullptr,
            nullptr,
            nullptr,
            nullptr};
  }

  static variable_list forward(AutogradContext* context, const at::Tensor& decay_logit,
                               const at::Tensor& rate_logit, const at::Tensor& k, const at::Tensor& removal,
                               const at::Tensor& replacement) {
    const Sizes s = sizes_of(k);
    const variable_list in{decay_logit, rate_logit, k, removal, replacement};
    const variable_list out{like(k), like(k), like(k), like(k)};
    AT_DISPATCH_FLOATING_TYPES(k.scalar_type(), "prepare_state_head", [&] {
      Preparation<scalar_t> p = inputs<scalar_t>(in);
      p.log_decay = out[0].mutable_data_ptr<scalar_t>();
      p.new_k = out[1].mutable_data_ptr<scalar_t>();
      p.a = out[2].mutable_data_ptr<scalar_t>();
      p.b = out[3].mutable_data_ptr<scalar_t>();
      for_row_blocks(s.tokens, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        prepare_rows(p, s, first, last);
      });
    });
    context->save_for_backward(in);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto in = context->get_saved_variables();
    const Sizes s = sizes_of(in[2]);
    variable_list d;
    for (const at::Tensor& gradient : gradients) d.push_back(dense_or_zero(gradient, in[2]));
    const variable_list out{like(in[2]), like(in[2]), like(in[2])};
    const at::Tensor partial = at::zeros({row_blocks(s.tokens), 2, s.H, s.N}, in[2].options());
    at::Tensor sums;
    AT_DISPATCH_FLOATING_TYPES(in[2].scalar_type(), "prepare_state_head_backward", [&] {
      const Preparation<scalar_t> p = inputs<scalar_t>(in);
      const PreparationGradient<scalar_t> g{
          d[0].const_data_ptr<scalar_t>(),     d[1].const_data_ptr<scalar_t>(),
          d[2].const_data_ptr<scalar_t>(),     d[3].const_data_ptr<scalar_t>(),
          out[0].mutable_data_ptr<scalar_t>(), out[1].mutable_data_ptr<scalar_t>(),
          out[2].mutable_data_ptr<scalar_t>()};
      for_row_blocks(s.tokens, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        auto* sum = partial.mutable_data_ptr<scalar_t>() + block * 2 * s.H * s.N;
        prepare_rows_backward(p, g, s, first, last, sum, sum + s.H * s.N);
      });
      sums = sum_blocks<scalar_t>(partial);
    });
    return {out[0], out[1], out[2], sums[0], sums[1]};
  }
};

struct Finish : torch::autograd::Function<Finish> {
  template <class T>
  static Epilogue<T> inputs(const variable_list& in, double eps) {
    return {in[0].const_data_ptr<T>(), in[1].const_data_ptr<T>(), in[2].const_data_ptr<T>(),
            in[3].const_data_ptr<T>(), in[4].const_data_ptr<T>(), in[5].const_data_ptr<T>(),
            in[6].const_data_ptr<T>(), in[7].const_data_ptr<T>(), T(eps)};
  }

  static at::Tensor forward(AutogradContext* context, const at::Tensor& y, const at::Tensor& r,
                            const at::Tensor& k, const at::Tensor& v, const at::Tensor& gate,
                            const at::Tensor& bonus, const at::Tensor& weight, const at::Tensor& bias,
                            double eps) {
    const Sizes s = sizes_of(y);
    const variable_list in{y, r, k, v, gate, bonus, weight, bias};
    const at::Tensor out = like(y);
    AT_DISPATCH_FLOATING_TYPES(y.scalar_type(), "finish_state_head", [&] {
      const Epilogue<scalar_t> e = inputs<scalar_t>(in, eps);
      for_row_blocks(s.tokens, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        finish_rows(e, s, first, last, out.mutable_data_ptr<scalar_t>());
      });
    });
    context->save_for_backward(in);
    context->saved_data["eps"] = eps;
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto in = context->get_saved_variables();
    const Sizes s = sizes_of(in[0]);
    const at::Tensor d = dense(gradients[0]);
    variable_list out;
    for (int i = 0; i < 5; ++i) out.push_back(like(in[0]));
    const at::Tensor partial = at::zeros({row_blocks(s.tokens), 3, s.H, s.N}, in[0].options());
    at::Tensor sums;
    AT_DISPATCH_FLOATING_TYPES(in[0].scalar_type(), "finish_state_head_backward", [&] {
      const Epilogue<scalar_t> e = inputs<scalar_t>(in, context->saved_data["eps"].toDouble());
      for_row_blocks(s.tokens, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        auto* sum = partial.mutable_data_ptr<scalar_t>() + block * 3 * s.H * s.N;
        const EpilogueGradient<scalar_t> g{out[0].mutable_data_ptr<scalar_t>(),
                                           out[1].mutable_data_ptr<scalar_t>(),
                                           out[2].mutable_data_ptr<scalar_t>(),
                                           out[3].mutable_data_ptr<scalar_t>(),
                                           out[4].mutable_data_ptr<scalar_t>(),
                                           sum,
                                           sum + s.H * s.N,
                                           sum + 2 * s.H * s.N};
        finish_rows_backward(e, d.const_data_ptr<scalar_t>(), g, s, first, last);
      });
      sums = sum_blocks<scalar_t>(partial);
    });
    return {out[0], out[1], out[2], out[3], out[4], sums[0], sums[1], sums[2], at::Tensor()};
  }
};

constexpr std::int64_t grain = 16384;  // elements per piece of parallel work

struct MixValues : torch::autograd::Function<MixValues> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& v, const at::Tensor& first,
                            const at::Tensor& logit) {
    const at::Tensor out = like(v);
    AT_DISPATCH_FLOATING_TYPES(v.scalar_type(), "mix_values", [&] {
      at::parallel_for(0, v.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        mix_loop(v.const_data_ptr<scalar_t>() + begin, first.const_data_ptr<scalar_t>() + begin,
                 logit.const_data_ptr<scalar_t>() + begin, end - begin,
                 out.mutable_data_ptr<scalar_t>() + begin);
      });
    });
    context->save_for_backward({v, first, logit});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto in = context->get_saved_variables();
    const at::Tensor d = dense(gradients[0]);
    const variable_list out{like(d), like(d), like(d)};
    AT_DISPATCH_FLOATING_TYPES(d.scalar_type(), "mix_values_backward", [&] {
      at::parallel_for(0, d.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        mix_backward_loop(d.const_data_ptr<scalar_t>() + begin, in[0].const_data_ptr<scalar_t>() + begin,
                          in[1].const_data_ptr<scalar_t>() + begin, in[2].const_data_ptr<scalar_t>() + begin,
                          end - begin, out[0].mutable_data_ptr<scalar_t>() + begin,
                          out[1].mutable_data_ptr<scalar_t>() + begin,
                          out[2].mutable_data_ptr<scalar_t>() + begin);
      });
    });
    return out;
  }
};

}  // namespace

StateHeadInputs prepare_state_head(const at::Tensor& decay_logit, const at::Tensor& rate_logit,
                                   const at::Tensor& k, const at::Tensor& removal,
                                   const at::Tensor& replacement) {
  constexpr const char* op = "prepare_state_head";
  WN_CHECK(k.dim() == 4, "{}: k has shape {}, expected [B, T, H, N]", op, shape_text(k));
  check_input(op, "k", k, k.sizes(), k);
  check_input(op, "decay_logit", decay_logit, k.sizes(), k);
  check_input(op, "rate_logit", rate_logit, k.sizes(), k);
  check_input(op, "removal", removal, {k.size(2), k.size(3)}, k);
  check_input(op, "replacement", replacement, {k.size(2), k.size(3)}, k);
  const variable_list out = Prepare::apply(decay_logit, rate_logit, k, removal, replacement);
  return {out[0], out[1], out[2], out[3]};
}

at::Tensor finish_state_head(const at::Tensor& y, const at::Tensor& r, const at::Tensor& k,
                             const at::Tensor& v, const at::Tensor& gate, const at::Tensor& bonus,
                             const at::Tensor& weight, const at::Tensor& bias, double eps) {
  constexpr const char* op = "finish_state_head";
  WN_CHECK(y.dim() == 4, "{}: y has shape {}, expected [B, T, H, N]", op, shape_text(y));
  check_input(op, "y", y, y.sizes(), y);
  check_input(op, "r", r, y.sizes(), y);
  check_input(op, "k", k, y.sizes(), y);
  check_input(op, "v", v, y.sizes(), y);
  check_input(op, "gate", gate, y.sizes(), y);
  check_input(op, "bonus", bonus, {y.size(2), y.size(3)}, y);
  check_input(op, "weight", weight, {y.size(2), y.size(3)}, y);
  check_input(op, "bias", bias, {y.size(2), y.size(3)}, y);
  return Finish::apply(y, r, k, v, gate, bonus, weight, bias, eps);
}

at::Tensor mix_values(const at::Tensor& v, const at::Tensor& first, const at::Tensor& logit) {
  check_input("mix_values", "v", v, v.sizes(), v);
  check_input("mix_values", "first", first, v.sizes(), v);
  check_input("mix_values", "logit", logit, v.sizes(), v);
  return MixValues::apply(v, first, logit);
}

}  // namespace wuneng::kernels
