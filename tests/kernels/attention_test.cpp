// attention.h against its definition.
#include "kernels/attention.h"

#include <ATen/ops/ones.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/check.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

// With every matrix written out.
at::Tensor definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t T = q.size(1), group = q.size(2) / k.size(2);
  const auto by_head = [&](const at::Tensor& x, std::int64_t copies) {
    return x.repeat_interleave(copies, 2).transpose(1, 2);
  };
  const at::Tensor later = at::ones({T, T}, at::kBool).triu(1);
  const at::Tensor scores = by_head(q, 1)
                                .matmul(by_head(k, group).transpose(2, 3))
                                .div(std::sqrt(static_cast<double>(q.size(3))))
                                .masked_fill(later, -std::numeric_limits<double>::infinity());
  return scores.softmax(-1).matmul(by_head(v, group)).transpose(1, 2);
}

struct Shape {
  std::int64_t B, T, H, H_kv, N;
};

TEST(CausalAttention, IsItsDefinition) {  // tiles are of 64 tokens
  for (const Shape& s : {Shape{2, 150, 3, 3, 64}, Shape{1, 64, 4, 2, 32}, Shape{2, 65, 2, 1, 128},
                         Shape{1, 1, 1, 1, 64}, Shape{3, 63, 1, 1, 32}})
    expect_equal([](const auto& in) { return std::vector{causal_attention(in[0], in[1], in[2])}; },
                 [](const auto& in) { return std::vector{definition(in[0], in[1], in[2])}; },
                 {normal({s.B, s.T, s.H, s.N}, 1), normal({s.B, s.T, s.H_kv, s.N}, 2),
                  normal({s.B, s.T, s.H_kv, s.N}, 3)});
}

TEST(CausalAttention, TakesViews) {  // [B, T, 3, H, N] of one product, and a stretch of the tokens
  const Op ours = [](const auto& in) {
    const std::vector<at::Tensor> x = in[0].narrow(1, 5, 70).unbind(2);
    return std::vector{causal_attention(x[0], x[1], x[2])};
  };
  const Op by_definition = [](const auto& in) {
    const std::vector<at::Tensor> x = in[0].narrow(1, 5, 70).unbind(2);
    return std::vector{definition(x[0], x[1], x[2])};
  };
  expect_equal(ours, by_definition, {normal({2, 80, 3, 2, 32}, 1)});
}

TEST(CausalAttention, LargeScoresStayFinite) {
  const Derivatives d = differentiate(
      [](const auto& in) { return std::vector{causal_attention(in[0], in[1], in[2])}; },
      {normal({1, 100, 1, 32}, 1, at::kFloat).mul(300), normal({1, 100, 1, 32}, 2, at::kFloat).mul(300),
       normal({1, 100, 1, 32}, 3, at::kFloat)});
  EXPECT_TRUE(d.outputs[0].isfinite().all().item<bool>());
  for (const at::Tensor& x : d.gradients) EXPECT_TRUE(x.isfinite().all().item<bool>());
}

TEST(CausalAttention, LaterTokensChangeNothing) {
  const at::Tensor q = normal({1, 130, 2, 64}, 1, at::kFloat), k = normal({1, 130, 2, 64}, 2, at::kFloat),
                   v = normal({1, 130, 2, 64}, 3, at::kFloat);
  const auto first = [](const at::Tensor& x) { return x.narrow(1, 0, 70); };
  const at::Tensor whole = causal_attention(q, k, v);
  EXPECT_TRUE(first(whole).equal(causal_attention(first(q), first(k), first(v))));
}

TEST(CausalAttention, MisuseIsRefused) {
  const at::Tensor q = normal({1, 4, 2, 32}, 1), k = normal({1, 4, 1, 32}, 2);
  EXPECT_THROW(causal_attention(normal({1, 4, 3, 32}, 1), normal({1, 4, 2, 32}, 1), q), Error);
  EXPECT_THROW(causal_attention(normal({1, 4, 1, 33}, 1), normal({1, 4, 1, 33}, 1), k), Error);
  EXPECT_THROW(causal_attention(q, k, q), Error);
  EXPECT_THROW(causal_attention(q, k.to(at::kFloat), k), Error);
}

}  // namespace
}  // namespace wuneng::kernels::tests
