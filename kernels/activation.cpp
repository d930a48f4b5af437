#include "kernels/activation.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/composed.h"
#include "kernels/op.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t grain = 16384;  // elements per piece of parallel work

#define WUNENG_ACTIVATION_LOOPS(T)                                                                         \
  WUNENG_SIMD void swiglu_loop(const T* gate, const T* up, std::int64_t n, T* y) {                         \
    for (std::int64_t i = 0; i < n; ++i) y[i] = gate[i] * sigmoid(gate[i]) * up[i];                        \
  }                                                                                                        \
  WUNENG_SIMD void swiglu_backward_loop(const T* dy, const T* gate, const T* up, std::int64_t n, T* dgate, \
                                        T* dup) {                                                          \
    for (std::int64_t i = 0; i < n; ++i) {                                                                 \
      const T s = sigmoid(gate[i]), silu = gate[i] * s;                                                    \
      dup[i] = dy[i] * silu;                                                                               \
      dgate[i] = dy[i] * up[i] * (s + silu * (T(1) - s));                                                  \
    }                                                                                                      \
  }                                                                                                        \
  WUNENG_SIMD void squared_relu_loop(const T* x, std::int64_t n, T* y) {                                   \
    for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] > T(0) ? x[i] * x[i] : T(0);                          \
  }                                                                                                        \
  WUNENG_SIMD void squared_relu_backward_loop(const T* dy, const T* x, std::int64_t n, T* dx) {            \
    for (std::int64_t i = 0; i < n; ++i) dx[i] = x[i] > T(0) ? T(2) * x[i] * dy[i] : T(0);                 \
  }
WUNENG_ACTIVATION_LOOPS(float)
WUNENG_ACTIVATION_LOOPS(double)
#undef WUNENG_ACTIVATION_LOOPS

struct Swiglu : torch::autograd::Function<Swiglu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate, const at::Tensor& up) {
    const at::Tensor y = at::empty(gate.sizes(), gate.options());
    AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "swiglu", [&] {
      at::parallel_for(0, gate.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        swiglu_loop(gate.const_data_ptr<scalar_t>() + begin, up.const_data_ptr<scalar_t>() + begin,
                    end - begin, y.mutable_data_ptr<scalar_t>() + begin);
      });
    });
    context->save_for_backward({gate, up});
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &gate = saved[0], &up = saved[1], dy = dense(gradients[0]);
    const at::Tensor dgate = at::empty(gate.sizes(), gate.options()),
                     dup = at::empty(up.sizes(), up.options());
    AT_DISPATCH_FLOATING_TYPES(gate.scalar_type(), "swiglu_backward", [&] {
      at::parallel_for(0, gate.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        swiglu_backward_loop(dy.const_data_ptr<scalar_t>() + begin, gate.const_data_ptr<scalar_t>() + begin,
                             up.const_data_ptr<scalar_t>() + begin, end - begin,
                             dgate.mutable_data_ptr<scalar_t>() + begin,
                             dup.mutable_data_ptr<scalar_t>() + begin);
      });
    });
    return {dgate, dup};
  }
};

struct SquaredRelu : torch::autograd::Function<SquaredRelu> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x) {
    const at::Tensor y = at::empty(x.sizes(), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "squared_relu", [&] {
      at::parallel_for(0, x.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        squared_relu_loop(x.const_data_ptr<scalar_t>() + begin, end - begin,
                          y.mutable_data_ptr<scalar_t>() + begin);
      });
    });
    context->save_for_backward({x});
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const at::Tensor x = context->get_saved_variables()[0], dy = dense(gradients[0]);
    const at::Tensor dx = at::empty(x.sizes(), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "squared_relu_backward", [&] {
      at::parallel_for(0, x.numel(), grain, [&](std::int64_t begin, std::int64_t end) {
        squared_relu_backward_loop(dy.const_data_ptr<scalar_t>() + begin,
                                   x.const_data_ptr<scalar_t>() + begin, end - begin,
                                   dx.mutable_data_ptr<scalar_t>() + begin);
      });
    });
    return {dx};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  check_input("swiglu", "gate", gate, gate.sizes(), gate);
  check_input("swiglu", "up", up, gate.sizes(), gate);
  if (!gate.is_cpu()) return composed::swiglu(gate, up);
  return Swiglu::apply(gate, up);
}

at::Tensor squared_relu(const at::Tensor& x) {
  check_input("squared_relu", "x", x, x.sizes(), x);
  if (!x.is_cpu()) return composed::squared_relu(x);
  return SquaredRelu::apply(x);
}

}  // namespace wuneng::kernels
