#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace wuneng::kernels {

// The sum of x^2 of every block of `block` elements, in double precision and in a fixed order: the bits do
// not depend on threads. x: contiguous float32 or float64 on any device, a multiple of `block` elements.
// Returns [blocks] float64 on the CPU.
at::Tensor sums_of_squares(const at::Tensor& x, std::int64_t block);

}  // namespace wuneng::kernels
