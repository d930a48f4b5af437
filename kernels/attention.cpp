#include "kernels/attention.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "kernels/attention_launch.h"
#include "kernels/op.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* op = "causal_attention";

struct Sizes {
  std::int64_t B, T, H, H_kv, N;

  Sizes(const at::Tensor& q, const at::Tensor& k)
      : B(q.size(0)), T(q.size(1)), H(q.size(2)), H_kv(k.size(2)), N(q.size(3)) {}
  HeadSizes head() const { return {T, N}; }
};

// The rows of head h of sequence b in x [B, T, H, N].
template <class T>
HeadRows<const T> rows_of(const at::Tensor& x, std::int64_t b, std::int64_t h) {
  return {x.const_data_ptr<T>() + b * x.stride(0) + h * x.stride(2), x.stride(1)};
}
template <class T>
HeadRows<T> rows_to(const at::Tensor& x, std::int64_t b, std::int64_t h) {
  return {x.mutable_data_ptr<T>() + b * x.stride(0) + h * x.stride(2), x.stride(1)};
}

struct CausalAttention : torch::autograd::Function<CausalAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v) {
    const Sizes s(q, k);
    const at::Tensor y = at::empty(q.sizes(), q.options()),
                     log_sums = at::empty({s.B, s.H, s.T}, q.options());
    AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), op, [&] {
      auto* sums = log_sums.mutable_data_ptr<scalar_t>();
      at::parallel_for(0, s.B * s.H, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t b = i / s.H, h = i % s.H, shared = h * s.H_kv / s.H;
          attention_forward_cpu(s.head(), rows_of<scalar_t>(q, b, h), rows_of<scalar_t>(k, b, shared),
                                rows_of<scalar_t>(v, b, shared), rows_to<scalar_t>(y, b, h), sums + i * s.T);
        }
      });
    });
    context->save_for_backward({q, k, v, y, log_sums});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &q = saved[0], &k = saved[1], &v = saved[2], d_y = dense(gradients[0]);
    const Sizes s(q, k);
    const variable_list out{at::empty(q.sizes(), q.options()), at::empty(k.sizes(), k.options()),
                            at::empty(k.sizes(), k.options())};
    AT_DISPATCH_FLOATING_TYPES(q.scalar_type(), op, [&] {
      at::parallel_for(0, s.B * s.H_kv, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t b = i / s.H_kv, shared = i % s.H_kv;
          const auto heads = query_heads<scalar_t>(saved, d_y, out[0], b, shared);
          attention_backward_cpu(s.head(), heads.data(), static_cast<std::int64_t>(heads.size()),
                                 rows_of<scalar_t>(k, b, shared), rows_of<scalar_t>(v, b, shared),
                                 rows_to<scalar_t>(out[1], b, shared), rows_to<scalar_t>(out[2], b, shared));
        }
      });
    });
    return out;
  }

 private:
  // Those that share key head `shared` of sequence b.
  template <class T>
  static std::vector<QueryHead<T>> query_heads(const variable_list& saved, const at::Tensor& d_y,
                                               const at::Tensor& d_q, std::int64_t b, std::int64_t shared) {
    const at::Tensor &q = saved[0], &y = saved[3], &log_sums = saved[4];
    const Sizes s(q, saved[1]);
    const std::int64_t group = s.H / s.H_kv;
    std::vector<QueryHead<T>> heads;
    for (std::int64_t h = shared * group; h < (shared + 1) * group; ++h)
      heads.push_back({rows_of<T>(q, b, h), rows_of<T>(y, b, h), rows_of<T>(d_y, b, h),
                       log_sums.const_data_ptr<T>() + (b * s.H + h) * s.T, rows_to<T>(d_q, b, h)});
    return heads;
  }
};

void check_like(const char* name, const at::Tensor& x, at::IntArrayRef shape, const at::Tensor& like) {
  WN_CHECK(x.sizes() == shape, "{}: {} has shape {}, expected [{}]", op, name, shape_text(x),
           fmt::join(shape, ", "));
  check_device(op, name, x, like);
  check_dtype(op, name, x, like);
}

at::Tensor dense_rows(const at::Tensor& x) { return x.stride(3) == 1 ? x : x.contiguous(); }

}  // namespace

bool causal_attention_takes(const at::Tensor& q, const at::Tensor& k) {
  const std::int64_t N = q.size(3);
  return q.is_cpu() && (N == 32 || N == 64 || N == 128) && q.size(1) > 0 && q.size(1) == k.size(1);
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  WN_CHECK(
      q.dim() == 4 && k.dim() == 4 && k.size(2) > 0 && q.size(2) % k.size(2) == 0 &&
          causal_attention_takes(q, k),
      "{}: q has shape {} and k {}, expected [B, T, H, N] and [B, T, H_kv, N] on the CPU with N of 32, 64 or "
      "128, and H a multiple of H_kv",
      op, shape_text(q), shape_text(k));
  check_like("q", q, q.sizes(), q);
  const std::vector<std::int64_t> shape{q.size(0), q.size(1), k.size(2), q.size(3)};
  check_like("k", k, shape, q);
  check_like("v", v, shape, q);
  return CausalAttention::apply(dense_rows(q), dense_rows(k), dense_rows(v));
}

}  // namespace wuneng::kernels
