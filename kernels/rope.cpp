#include "kernels/rope.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "kernels/composed.h"
#include "kernels/op.h"
#include "kernels/simd.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// cos and sin of token t's angles, [T, 2, N/2]. `direction` -1 turns backwards, which is the transposed map.
template <class T>
at::Tensor angles(const at::Tensor& like, std::int64_t tokens, std::int64_t N, std::int64_t first,
                  double base, double step, double direction) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < N / 2; ++i)
    frequencies.push_back(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(N)));
  at::Tensor table = at::empty({tokens, 2, N / 2}, like.options());
  T* out = table.mutable_data_ptr<T>();
  for (std::int64_t t = 0; t < tokens; ++t, out += N)
    for (std::int64_t i = 0; i < N / 2; ++i) {
      const double angle = static_cast<double>(first + t) * step * frequencies[static_cast<std::size_t>(i)];
      out[i] = static_cast<T>(std::cos(angle));
      out[N / 2 + i] = static_cast<T>(direction * std::sin(angle));
    }
  return table;
}

#define WUNENG_ROTATE(T)                                                                      \
  WUNENG_SIMD void rotate(const T* x, const T* table, std::int64_t H, std::int64_t N, T* y) { \
    const std::int64_t half = N / 2;                                                          \
    for (std::int64_t h = 0; h < H; ++h, x += N, y += N)                                      \
      for (std::int64_t i = 0; i < half; ++i) {                                               \
        const T a = x[i], b = x[half + i], c = table[i], s = table[half + i];                 \
        y[i] = a * c - b * s;                                                                 \
        y[half + i] = b * c + a * s;                                                          \
      }                                                                                       \
  }
WUNENG_ROTATE(float)
WUNENG_ROTATE(double)
#undef WUNENG_ROTATE

at::Tensor rotate_all(const at::Tensor& x, std::int64_t first, double base, double step, double direction) {
  const std::int64_t B = x.size(0), T = x.size(1), H = x.size(2), N = x.size(3);
  at::Tensor y = at::empty(x.sizes(), x.options());
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rope", [&] {
    const at::Tensor table = angles<scalar_t>(x, T, N, first, base, step, direction);
    const auto* in = x.const_data_ptr<scalar_t>();
    const auto* turn = table.const_data_ptr<scalar_t>();
    auto* out = y.mutable_data_ptr<scalar_t>();
    for_row_blocks(B * T, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row)
        rotate(in + row * H * N, turn + (row % T) * N, H, N, out + row * H * N);
    });
  });
  return y;
}

struct Rope : torch::autograd::Function<Rope> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, std::int64_t first, double base,
                            double step) {
    context->saved_data["first"] = first;
    context->saved_data["base"] = base;
    context->saved_data["step"] = step;
    return rotate_all(x, first, base, step, 1.0);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    return {rotate_all(dense(gradients[0]), context->saved_data["first"].toInt(),
                       context->saved_data["base"].toDouble(), context->saved_data["step"].toDouble(), -1.0),
            at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rope(const at::Tensor& x, std::int64_t first_position, double base, double step) {
  WN_CHECK(x.dim() == 4 && x.size(3) % 2 == 0, "rope: x has shape {}, expected [B, T, H, N] with even N",
           shape_text(x));
  check_input("rope", "x", x, x.sizes(), x);
  if (!x.is_cpu()) return composed::rope(x, first_position, base, step);
  return Rope::apply(x, first_position, base, step);
}

}  // namespace wuneng::kernels
