#include "kernels/wkv7/reference.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <vector>

#include "kernels/documents.h"

namespace wuneng::kernels {
namespace {

struct Sizes {
  std::int64_t B, T, H, N;
};

// Inputs in float64, and where the channels of token t of one row and head begin.
struct Inputs {
  Inputs(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k, const at::Tensor& v,
         const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial_state,
         const at::Tensor& document_starts)
      : size{r.size(0), r.size(1), r.size(2), r.size(3)},
        tensors{as_double(r), as_double(log_decay), as_double(k), as_double(v), as_double(a), as_double(b)},
        initial(initial_state.defined() ? as_double(initial_state)
                                        : at::zeros({size.B, size.H, size.N, size.N}, at::kDouble)),
        starts(start_flags(document_starts, size.B * size.T)) {}

  static at::Tensor as_double(const at::Tensor& x) { return x.detach().to(at::kDouble).contiguous(); }
  std::int64_t offset(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return ((b * size.T + t) * size.H + h) * size.N;
  }
  const double* channel(int i, std::int64_t b, std::int64_t t, std::int64_t h) const {
    return tensors[i].const_data_ptr<double>() + offset(b, t, h);
  }
  bool starts_at(std::int64_t b, std::int64_t t) const {
    return !starts.empty() && starts[static_cast<std::size_t>(b * size.T + t)];
  }

  Sizes size;
  std::vector<at::Tensor> tensors;
  at::Tensor initial;
  std::vector<bool> starts;
};

using Matrix = std::vector<double>;  // [N_v, N_k]

// The states before each token and after the last one; a document's start finds a zero state before it. u[t]
// = S a.
struct Trajectory {
  std::vector<Matrix> before, after;
  std::vector<std::vector<double>> u;
};

Trajectory run(const Inputs& in, std::int64_t b, std::int64_t h) {
  const std::int64_t N = in.size.N;
  Trajectory path;
  const double* start = in.initial.const_data_ptr<double>() + (b * in.size.H + h) * N * N;
  Matrix s(start, start + N * N);
  for (std::int64_t t = 0; t < in.size.T; ++t) {
    const double *w = in.channel(1, b, t, h), *k = in.channel(2, b, t, h), *v = in.channel(3, b, t, h),
                 *a = in.channel(4, b, t, h), *bb = in.channel(5, b, t, h);
    if (in.starts_at(b, t)) s.assign(s.size(), 0.0);
    path.before.push_back(s);
    std::vector<double> u(N, 0.0);
    for (std::int64_t i = 0; i < N; ++i)
      for (std::int64_t j = 0; j < N; ++j) u[i] += s[i * N + j] * a[j];
    for (std::int64_t i = 0; i < N; ++i)
      for (std::int64_t j = 0; j < N; ++j)
        s[i * N + j] = s[i * N + j] * std::exp(w[j]) + u[i] * bb[j] + v[i] * k[j];
    path.after.push_back(s);
    path.u.push_back(u);
  }
  return path;
}

}  // namespace

Wkv7Output wkv7_reference(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                          const at::Tensor& v, const at::Tensor& a, const at::Tensor& b,
                          const at::Tensor& initial_state, const at::Tensor& document_starts) {
  const Inputs in(r, log_decay, k, v, a, b, initial_state, document_starts);
  const auto [B, T, H, N] = in.size;
  const at::Tensor y = at::zeros({B, T, H, N}, at::kDouble),
                   final_state = at::empty({B, H, N, N}, at::kDouble);
  for (std::int64_t row = 0; row < B; ++row)
    for (std::int64_t h = 0; h < H; ++h) {
      const Trajectory path = run(in, row, h);
      for (std::int64_t t = 0; t < T; ++t) {
        const double* receptance = in.channel(0, row, t, h);
        double* out = y.mutable_data_ptr<double>() + in.offset(row, t, h);
        for (std::int64_t i = 0; i < N; ++i)
          for (std::int64_t j = 0; j < N; ++j) out[i] += path.after[t][i * N + j] * receptance[j];
      }
      std::copy(path.after.back().begin(), path.after.back().end(),
                final_state.mutable_data_ptr<double>() + (row * H + h) * N * N);
    }
  return {y, final_state};
}

Wkv7Gradients wkv7_reference_backward(const at::Tensor& grad_y, const at::Tensor& grad_final_state,
                                      const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                                      const at::Tensor& v, const at::Tensor& a, const at::Tensor& b,
                                      const at::Tensor& initial_state, const at::Tensor& document_starts) {
  const Inputs in(r, log_decay, k, v, a, b, initial_state, document_starts);
  const auto [B, T, H, N] = in.size;
  const auto zeros = [&] { return at::zeros({in.size.B, in.size.T, in.size.H, in.size.N}, at::kDouble); };
  Wkv7Gradients out{
      zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), at::zeros({B, H, N, N}, at::kDouble)};
  const at::Tensor dy_all = grad_y.defined() ? Inputs::as_double(grad_y) : zeros();
  const at::Tensor ds_all =
      grad_final_state.defined() ? Inputs::as_double(grad_final_state) : at::zeros({B, H, N, N}, at::kDouble);
  for (std::int64_t row = 0; row < B; ++row)
    for (std::int64_t h = 0; h < H; ++h) {
      const Trajectory path = run(in, row, h);
      const double* last = ds_all.const_data_ptr<double>() + (row * H + h) * N * N;
      Matrix ds(last, last + N * N);  // gradient of the state after token t
      for (std::int64_t t = T - 1; t >= 0; --t) {
        const std::int64_t at = in.offset(row, t, h);
        const double *rr = in.channel(0, row, t, h), *w = in.channel(1, row, t, h),
                     *kk = in.channel(2, row, t, h), *vv = in.channel(3, row, t, h),
                     *aa = in.channel(4, row, t, h), *bb = in.channel(5, row, t, h);
        const double* dy = dy_all.const_data_ptr<double>() + at;
        const auto gradient = [&](const at::Tensor& tensor) {
          return tensor.mutable_data_ptr<double>() + at;
        };
        const Matrix &before = path.before[t], &after = path.after[t];
        std::vector<double> du(N, 0.0);
        for (std::int64_t i = 0; i < N; ++i)
          for (std::int64_t j = 0; j < N; ++j) {
            gradient(out.r)[j] += after[i * N + j] * dy[i];
            ds[i * N + j] += dy[i] * rr[j];
            du[i] += ds[i * N + j] * bb[j];
          }
        Matrix ds_before(N * N);
        for (std::int64_t i = 0; i < N; ++i)
          for (std::int64_t j = 0; j < N; ++j) {
            const double d = ds[i * N + j];
            gradient(out.log_decay)[j] += d * before[i * N + j] * std::exp(w[j]);
            gradient(out.k)[j] += d * vv[i];
            gradient(out.v)[i] += d * kk[j];
            gradient(out.b)[j] += d * path.u[t][i];
            gradient(out.a)[j] += du[i] * before[i * N + j];
            ds_before[i * N + j] = d * std::exp(w[j]) + du[i] * aa[j];
          }
        ds = in.starts_at(row, t) ? Matrix(N * N, 0.0) : ds_before;
      }
      std::copy(ds.begin(), ds.end(), out.initial_state.mutable_data_ptr<double>() + (row * H + h) * N * N);
    }
  return out;
}

}  // namespace wuneng::kernels
