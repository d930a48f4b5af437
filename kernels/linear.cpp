#include "kernels/linear.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/graph_task.h>

#include "kernels/op.h"
#include "kernels/product.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor rows_of(const at::Tensor& x) { return x.reshape({-1, x.size(-1)}); }

at::Tensor shaped_like(const at::Tensor& rows, const at::Tensor& x) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = rows.size(1);
  return rows.view(shape);
}

// Whether the backward pass that runs adds the gradients of all leaves to their .grad: backward() without a
// list of inputs. grad() wants them returned.
bool accumulating() {
  const auto* wanted = torch::autograd::get_current_graph_task_exec_info();
  return !at::GradMode::is_enabled() && (!wanted || wanted->empty());
}

// d^T x: added to weight.grad() where that is what would become of it, and undefined then.
at::Tensor weight_gradient(const at::Tensor& weight, const at::Tensor& d, const at::Tensor& x) {
  if (!weight.requires_grad()) return {};
  if (!weight.is_leaf() || !weight.grad().defined() || !accumulating()) return product(d.t(), x);
  add_product(weight.grad(), d.t(), x);
  return {};
}

// sum += a b, where the first product makes the sum.
void add_term(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  if (sum.defined())
    add_product(sum, a, b);
  else
    sum = product(a, b);
}

struct LinearEach : torch::autograd::Function<LinearEach> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, at::TensorList weights) {
    variable_list out, saved{x};
    for (const at::Tensor& weight : weights) {
      out.push_back(product(x, weight.t()));
      saved.push_back(weight);
    }
    context->save_for_backward(saved);
    context->set_materialize_grads(false);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    variable_list out(saved.size());
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      if (!gradients[i].defined()) continue;
      if (context->needs_input_grad(0)) add_term(out[0], gradients[i], saved[i + 1]);
      out[i + 1] = weight_gradient(saved[i + 1], gradients[i], saved[0]);
    }
    return out;
  }
};

// Saved: the inputs, then as many weights.
struct LinearSum : torch::autograd::Function<LinearSum> {
  static at::Tensor forward(AutogradContext* context, at::TensorList inputs, at::TensorList weights) {
    at::Tensor sum;
    for (std::size_t i = 0; i < inputs.size(); ++i) add_term(sum, inputs[i], weights[i].t());
    variable_list saved = inputs.vec();
    saved.insert(saved.end(), weights.begin(), weights.end());
    context->save_for_backward(saved);
    return sum;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const std::size_t n = saved.size() / 2;
    variable_list out(saved.size());
    for (std::size_t i = 0; i < n; ++i) {
      const at::Tensor &x = saved[i], &weight = saved[n + i];
      if (context->needs_input_grad(i)) out[i] = product(gradients[0], weight);
      out[n + i] = weight_gradient(weight, gradients[0], x);
    }
    return out;
  }
};

void check_weight(const char* op, const at::Tensor& x, const at::Tensor& weight) {
  WN_CHECK(x.dim() >= 1 && weight.dim() == 2 && weight.size(1) == x.size(-1),
           "{}: an input of shape {} for a weight of shape {}", op, shape_text(x), shape_text(weight));
}

}  // namespace

std::vector<at::Tensor> linear_each(const at::Tensor& x, at::TensorList weights) {
  for (const at::Tensor& weight : weights) check_weight("linear_each", x, weight);
  variable_list out = LinearEach::apply(rows_of(x), weights);
  for (at::Tensor& y : out) y = shaped_like(y, x);
  return out;
}

at::Tensor linear_sum(at::TensorList inputs, at::TensorList weights) {
  WN_CHECK(!inputs.empty() && inputs.size() == weights.size(), "linear_sum: {} inputs for {} weights",
           inputs.size(), weights.size());
  variable_list rows;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    check_weight("linear_sum", inputs[i], weights[i]);
    rows.push_back(rows_of(inputs[i]));
  }
  return shaped_like(LinearSum::apply(at::TensorList(rows), weights), inputs[0]);
}

}  // namespace wuneng::kernels
