// Products of matrices, most of what a training step costs. float32 on the CPU goes to oneDNN, which reaches
// more of a core than the library inside LibTorch does (kernels/README.md), all else to LibTorch.
//
// a [M, K], b [K, N], out [M, N], of one device and in any layout. One dtype; out may be float32 for bfloat16
// factors on CUDA. Not differentiable. The bits do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace wuneng::kernels {

at::Tensor product(const at::Tensor& a, const at::Tensor& b);
void product_out(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);  // out = a b
void add_product(const at::Tensor& out, const at::Tensor& a, const at::Tensor& b);  // out += a b

// Whose products float32 gets on the CPU: "oneDNN 2.6.3".
std::string product_library();

}  // namespace wuneng::kernels
