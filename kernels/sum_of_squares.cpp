#include "kernels/sum_of_squares.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include "common/check.h"
#include "kernels/composed.h"
#include "kernels/simd.h"

namespace wuneng::kernels {
namespace {

constexpr int lanes = 16;

template <class T>
WUNENG_INLINE double block_sum(const T* x, std::int64_t n) {
  double partial[lanes] = {};
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int l = 0; l < lanes; ++l)
      partial[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  for (; i < n; ++i) partial[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  double sum = 0.0;
  for (double p : partial) sum += p;
  return sum;
}

WUNENG_SIMD double block_sum_of(const float* x, std::int64_t n) { return block_sum(x, n); }
WUNENG_SIMD double block_sum_of(const double* x, std::int64_t n) { return block_sum(x, n); }

}  // namespace

at::Tensor sums_of_squares(const at::Tensor& x, std::int64_t block) {
  WN_CHECK(x.is_contiguous() && block > 0 && x.numel() % block == 0,
           "sums_of_squares: {} elements, expected contiguous blocks of {}", x.numel(), block);
  if (!x.is_cpu()) return composed::sums_of_squares(x, block);
  at::Tensor sums = at::empty({x.numel() / block}, at::kDouble);
  auto* sum = sums.mutable_data_ptr<double>();
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sums_of_squares", [&] {
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    at::parallel_for(0, sums.numel(), 64, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) sum[i] = block_sum_of(data + i * block, block);
    });
  });
  return sums;
}

}  // namespace wuneng::kernels
