#include "kernels/sum_of_squares.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "common/check.h"
#include "kernels/simd.h"

namespace wuneng::kernels {
namespace {

constexpr std::int64_t block = 4096;
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

double sum_of_squares(const at::Tensor& x) {
  WN_CHECK(x.is_contiguous() && x.device().is_cpu(),
           "sum_of_squares: the tensor must be contiguous and on the CPU");
  const std::int64_t n = x.numel();
  std::vector<double> partial(static_cast<std::size_t>((n + block - 1) / block));
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "sum_of_squares", [&] {
    const scalar_t* data = x.const_data_ptr<scalar_t>();
    at::parallel_for(0, static_cast<std::int64_t>(partial.size()), 16,
                     [&](std::int64_t begin, std::int64_t end) {
                       for (std::int64_t i = begin; i < end; ++i)
                         partial[i] = block_sum_of(data + i * block, std::min(block, n - i * block));
                     });
  });
  double sum = 0.0;
  for (double p : partial) sum += p;
  return sum;
}

}  // namespace wuneng::kernels
