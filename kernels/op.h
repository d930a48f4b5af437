// What the checked front of every operator needs: messages with the values, and loops over rows whose sums do
// not depend on threads.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>

#include "common/check.h"

namespace wuneng::kernels {

inline std::string shape_text(const at::Tensor& x) {
  return x.defined() ? fmt::format("[{}]", fmt::join(x.sizes(), ", ")) : "undefined";
}

#ifdef WUNENG_WITH_CUDA
constexpr bool with_cuda = true;
#else
constexpr bool with_cuda = false;
#endif

// Whether 16-byte loads may start at x's first element.
inline bool aligned(const at::Tensor& x) {
  return reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

inline void check_device(const char* op, const char* name, const at::Tensor& x, const at::Tensor& like) {
  WN_CHECK(x.device() == like.device(),
           "{}: {} is on {}, but the first input is on {}: all must be on one device", op, name,
           x.device().str(), like.device().str());
  WN_CHECK(x.device().is_cpu() || x.device().is_cuda(), "{}: {} is on {}, expected the CPU or CUDA", op, name,
           x.device().str());
  WN_CHECK(with_cuda || x.device().is_cpu(),
           "{}: {} is on {}, but this build has no CUDA: build with -DWUNENG_CUDA=ON", op, name,
           x.device().str());
}

inline void check_dtype(const char* op, const char* name, const at::Tensor& x, const at::Tensor& like) {
  const at::ScalarType dtype = x.scalar_type(), other = x.is_cuda() ? at::kBFloat16 : at::kDouble;
  WN_CHECK(dtype == at::kFloat || dtype == other, "{}: {} has dtype {}, expected {} or {} on {}", op, name,
           c10::toString(dtype), c10::toString(at::kFloat), c10::toString(other), x.device().str());
  WN_CHECK(dtype == like.scalar_type(), "{}: {} has dtype {}, expected {} as the first input", op, name,
           c10::toString(dtype), c10::toString(like.scalar_type()));
}

// Checks shape, device and dtype (those of `like`, the first input) and layout of an operator's input, on the
// CPU (float32, float64) or CUDA (float32, bfloat16).
inline void check_input(const char* op, const char* name, const at::Tensor& x, at::IntArrayRef shape,
                        const at::Tensor& like) {
  WN_CHECK(x.defined() && x.sizes() == shape, "{}: {} has shape {}, expected [{}]", op, name, shape_text(x),
           fmt::join(shape, ", "));
  check_device(op, name, x, like);
  check_dtype(op, name, x, like);
  WN_CHECK(x.is_contiguous(), "{}: {} is not contiguous (shape {}, strides [{}])", op, name, shape_text(x),
           fmt::join(x.strides(), ", "));
  WN_CHECK(x.is_cpu() || aligned(x),
           "{}: {} begins {} bytes past a multiple of 16, which CUDA needs: clone() it", op, name,
           reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % 16);
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

// A gradient that autograd hands in, or a view, may be expanded, strided, or on CUDA start anywhere.
inline at::Tensor dense(const at::Tensor& gradient) {
  const at::Tensor x = gradient.contiguous();
  return x.is_cuda() && !aligned(x) ? x.clone() : x;
}

}  // namespace wuneng::kernels
