// product.h against float64, in every layout and on both sides of what one call of the library computes.
#include "kernels/product.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <limits>

#include "common/check.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

enum class Layout { rows, columns, part, spread };

// The values of a matrix, laid out anew.
at::Tensor laid_out(const at::Tensor& values, Layout layout) {
  const std::int64_t rows = values.size(0), columns = values.size(1);
  const auto options = values.options();
  switch (layout) {
    case Layout::rows:
      return values.clone();
    case Layout::columns:
      return at::empty({columns, rows}, options).t().copy_(values);
    case Layout::part:  // of a wider matrix
      return at::zeros({rows + 2, columns + 5}, options)
          .narrow(0, 1, rows)
          .narrow(1, 3, columns)
          .copy_(values);
    case Layout::spread:  // neither rows nor columns lie side by side
      return at::zeros({rows, columns, 2}, options).select(2, 0).copy_(values);
  }
  return {};
}

constexpr auto layouts = {Layout::rows, Layout::columns, Layout::part, Layout::spread};

double bar(const at::Tensor& x) { return x.scalar_type() == at::kFloat ? 1e-6 : 1e-14; }

void expect_products(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor expected = a.to(at::kDouble).mm(b.to(at::kDouble));
  EXPECT_LT(error_ratio(product(a, b), expected), bar(a));
  for (const Layout layout : layouts) {
    const at::Tensor before = normal(expected.sizes(), 9, a.scalar_type());
    at::Tensor out = laid_out(before.mul(std::numeric_limits<double>::quiet_NaN()), layout);
    product_out(out, a, b);
    EXPECT_LT(error_ratio(out, expected), bar(a));
    out = laid_out(before, layout);
    add_product(out, a, b);
    EXPECT_LT(error_ratio(out, expected.add(before)), bar(a));
  }
}

TEST(Product, IsThatOfFloat64InEveryLayout) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const Layout left : layouts)
      for (const Layout right : layouts)
        expect_products(laid_out(normal({70, 33}, 1, dtype), left),
                        laid_out(normal({33, 45}, 2, dtype), right));
}

TEST(Product, IsThatOfFloat64AtEverySize) {
  struct Size {
    std::int64_t rows, inner, columns;
  };
  for (const auto [M, K, N] : {Size{1, 1, 1},
                               {1, 64, 7},
                               {7, 64, 1},
                               {1, 1, 600},
                               {600, 1, 1},
                               {512, 16, 512},
                               {513, 40, 511},
                               {1100, 3, 1025},
                               {30, 3000, 20}})
    for (const Layout left : {Layout::rows, Layout::columns})
      for (const Layout right : {Layout::rows, Layout::columns})
        expect_products(laid_out(normal({M, K}, 1, at::kFloat), left),
                        laid_out(normal({K, N}, 2, at::kFloat), right));
}

TEST(Product, OfNothingIsZero) {
  EXPECT_TRUE(product(at::zeros({3, 0}), at::zeros({0, 2})).equal(at::zeros({3, 2})));
  EXPECT_EQ(product(at::zeros({0, 3}), at::zeros({3, 2})).sizes(), at::IntArrayRef({0, 2}));
}

TEST(Product, HasTheSameBitsOnAnyNumberOfThreads) {
  for (const auto& [M, K, N] : {std::array<std::int64_t, 3>{40, 4000, 24}, {1500, 300, 40}, {700, 70, 1300}})
    for (const bool transposed : {false, true}) {
      const at::Tensor a = transposed ? normal({K, M}, 1, at::kFloat).t() : normal({M, K}, 1, at::kFloat),
                       b = normal({K, N}, 2, at::kFloat);
      const int before = at::get_num_threads();
      at::set_num_threads(1);
      const at::Tensor one = product(a, b);
      for (const int threads : {2, 3, 8}) {
        at::set_num_threads(threads);
        EXPECT_TRUE(product(a, b).equal(one)) << threads << " threads";
        EXPECT_EQ(at::get_num_threads(), threads);
      }
      at::set_num_threads(before);
    }
}

TEST(Product, WrongShapesAreRefused) {
  EXPECT_THROW(product(at::zeros({2, 3}), at::zeros({2, 3})), Error);
  EXPECT_THROW(product_out(at::zeros({2, 2}), at::zeros({2, 3}), at::zeros({3, 3})), Error);
  EXPECT_THROW(add_product(at::zeros({3, 3}), at::zeros({2, 3}), at::zeros({3, 3})), Error);
}

}  // namespace
}  // namespace wuneng::kernels::tests
