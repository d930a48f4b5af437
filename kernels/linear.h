// Matrix products with parameters whose backward pass makes no passes over memory of its own: the gradients
// that meet in an input are summed by the products, and a weight's is added by its product to what waits in
// weight.grad(). Any device and dtype of LibTorch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace wuneng::kernels {

// y_i = x W_i^T: x [..., I], weights [O_i, I] -> [..., O_i] each. Differentiable in x and the weights.
//
// While backward() accumulates, the gradient of a weight (a leaf whose .grad is set) goes into .grad
// directly, and what accumulates it sees an undefined one; in any other case, grad() above all, it is
// returned as usual.
std::vector<at::Tensor> linear_each(const at::Tensor& x, at::TensorList weights);

// y = sum_i x_i W_i^T: inputs [..., I_i], weights [O, I_i] -> [..., O]. The same in all else.
at::Tensor linear_sum(at::TensorList inputs, at::TensorList weights);

}  // namespace wuneng::kernels
