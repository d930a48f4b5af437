// What the checked front of every operator needs: messages with the values, and loops over rows whose sums do
// not depend on threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <string>

#include "common/check.h"

namespace wuneng::kernels {

inline std::string shape_text(const at::Tensor& x) {
  return x.defined() ? fmt::format("[{}]", fmt::join(x.sizes(), ", ")) : "undefined";
}

// Checks shape, dtype (that of `like`, when given), device and layout of an operator's input.
inline void check_input(const char* op, const char* name, const at::Tensor& x, at::IntArrayRef shape,
                        const at::Tensor& like) {
  WN_CHECK(x.defined() && x.sizes() == shape, "{}: {} has shape {}, expected [{}]", op, name, shape_text(x),
           fmt::join(shape, ", "));
  WN_CHECK(x.device().is_cpu(), "{}: {} is on {}, expected the CPU", op, name, x.device().str());
  WN_CHECK(x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble,
           "{}: {} has dtype {}, expected float32 or float64", op, name, c10::toString(x.scalar_type()));
  WN_CHECK(x.scalar_type() == like.scalar_type(), "{}: {} has dtype {}, expected {} as the first input", op,
           name, c10::toString(x.scalar_type()), c10::toString(like.scalar_type()));
  WN_CHECK(x.is_contiguous(), "{}: {} is not contiguous (shape {}, strides [{}])", op, name, shape_text(x),
           fmt::join(x.strides(), ", "));
}

// Rows per block. Blocks are the unit of parallel work and of summation: fixed, so that sums over rows keep
// their bits whatever the threads.
constexpr std::int64_t row_block = 32;

inline std::int64_t row_blocks(std::int64_t rows) { return (rows + row_block - 1) / row_block; }

// work(block, first row, last row) for every block.
template <class Work>
void for_row_blocks(std::int64_t rows, const Work& work) {
  at::parallel_for(0, row_blocks(rows), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t b = begin; b < end; ++b) work(b, b * row_block, std::min(rows, (b + 1) * row_block));
  });
}

// The sum over blocks, in order: partial [blocks, ...] -> [...].
template <class T>
at::Tensor sum_blocks(const at::Tensor& partial) {
  const std::int64_t blocks = partial.size(0), n = blocks > 0 ? partial[0].numel() : 0;
  at::Tensor sum = at::zeros(partial.sizes().slice(1), partial.options());
  T* out = sum.mutable_data_ptr<T>();
  const T* in = partial.const_data_ptr<T>();
  for (std::int64_t b = 0; b < blocks; ++b)
    for (std::int64_t i = 0; i < n; ++i) out[i] += in[b * n + i];
  return sum;
}

// Autograd functions take a tensor that may be undefined as an optional.
inline std::optional<at::Tensor> optional(const at::Tensor& x) {
  return x.defined() ? std::optional(x) : std::nullopt;
}

// A gradient that autograd hands in may be expanded or strided.
inline at::Tensor dense(const at::Tensor& gradient) { return gradient.contiguous(); }

}  // namespace wuneng::kernels
