#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// Sum of x^2 in double precision, over fixed blocks added in order: the bits depend on neither threads nor
// where the tensor lies. x: contiguous float32 or float64 on the CPU, any shape.
double sum_of_squares(const at::Tensor& x);

}  // namespace wuneng::kernels
