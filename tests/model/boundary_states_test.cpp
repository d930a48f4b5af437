#include "model/boundary_states.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/outer.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/wkv7/wkv7.h"

namespace wuneng::model {
namespace {

constexpr std::int64_t H = 2, N = 64;

struct Problem {
  at::Tensor r, v;  // [B, T, H, N], float64
  kernels::StateHeadInputs in;

  std::array<at::Tensor*, 6> all() { return {&r, &v, &in.log_decay, &in.k, &in.a, &in.b}; }
};

Problem problem(std::int64_t B, std::int64_t T) {
  const auto draw = [&](std::int64_t seed) {
    return at::randn({B, T, H, N}, at::detail::createCPUGenerator(seed), at::kDouble);
  };
  const at::Tensor kappa = draw(1), unit = kappa.div(kappa.norm(2, -1, true));
  return {
      draw(2).mul(0.3), draw(3), {draw(4).sigmoid().mul(-0.1), draw(5).mul(0.2), unit.neg(), unit.mul(0.4)}};
}

Problem part(const Problem& whole, std::int64_t row, std::int64_t rows, std::int64_t first,
             std::int64_t count) {
  Problem cut = whole;
  for (at::Tensor* x : cut.all()) *x = x->narrow(0, row, rows).narrow(1, first, count).contiguous();
  return cut;
}

BoundaryRead read(std::int64_t count, const Problem& p, const at::Tensor& starts = {},
                  std::int64_t position = 0, const BoundaryRead& before = {},
                  const std::vector<std::int64_t>& begin = {}) {
  const Documents documents(p.r.size(0), p.r.size(1), starts, position, begin);
  return read_with_boundaries(count, p.r, p.in, p.v, documents, before.final_state, before.memory);
}

// One document of one row and head, token by token, as the header's equations say.
at::Tensor by_definition(std::int64_t count, const Problem& p, std::int64_t head) {
  const std::int64_t T = p.r.size(1);
  std::vector<at::Tensor> boundaries, keys, outputs;
  at::Tensor state = at::zeros({N, N}, at::kDouble), sum = at::zeros({N}, at::kDouble);
  for (std::int64_t t = 0; t < T; ++t) {
    const auto at_t = [&](const at::Tensor& x) { return x[0][t][head]; };
    const at::Tensor r = at_t(p.r), k = at_t(p.in.k);
    state = state.mul(at_t(p.in.log_decay).exp())
                .add(at::outer(state.matmul(at_t(p.in.a)), at_t(p.in.b)))
                .add(at::outer(at_t(p.v), k));
    at::Tensor y = state.matmul(r);
    double total = 1.0;  // the null slot
    const std::size_t first = boundaries.size() - std::min<std::size_t>(boundaries.size(), count);
    for (std::size_t i = first; i < keys.size(); ++i) total += std::exp(at::dot(r, keys[i]).item<double>());
    for (std::size_t i = first; i < keys.size(); ++i)
      y = y.add(boundaries[i].matmul(r), std::exp(at::dot(r, keys[i]).item<double>()) / total);
    outputs.push_back(y);
    sum = sum.add(k);
    if ((t + 1) % 64 != 0) continue;
    boundaries.push_back(state);
    keys.push_back(sum.div(64));
    sum = at::zeros({N}, at::kDouble);
  }
  return at::stack(outputs);
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

TEST(BoundaryStates, AreReadAsDefined) {
  const Problem p = problem(2, 270);
  for (const std::int64_t count : {1, 2, 9}) {
    const at::Tensor y = read(count, p).y;
    for (std::int64_t row = 0; row < 2; ++row)
      for (std::int64_t head = 0; head < H; ++head)
        EXPECT_LT(
            largest_difference(y[row].select(1, head), by_definition(count, part(p, row, 1, 0, 270), head)),
            1e-10);
  }
}

TEST(BoundaryStates, AnySplitGivesTheSame) {
  const Problem p = problem(2, 230);
  const BoundaryRead whole = read(2, p);
  for (const std::vector<std::int64_t>& pieces :
       {std::vector<std::int64_t>{64, 64, 102}, {1, 62, 1, 1, 120, 45}, {130, 100}}) {
    BoundaryRead last;
    std::vector<at::Tensor> outputs;
    std::int64_t position = 0;
    for (const std::int64_t length : pieces) {
      last = read(2, part(p, 0, 2, position, length), {}, position, last);
      outputs.push_back(last.y);
      position += length;
    }
    EXPECT_LT(largest_difference(at::cat(outputs, 1), whole.y), 1e-11);
    EXPECT_LT(largest_difference(last.final_state, whole.final_state), 1e-11);
    EXPECT_LT(largest_difference(last.memory.states, whole.memory.states), 1e-11);
    EXPECT_LT(largest_difference(last.memory.keys, whole.memory.keys), 1e-11);
    EXPECT_LT(largest_difference(last.memory.key_sum, whole.memory.key_sum), 1e-11);
  }
}

TEST(BoundaryStates, OfOtherDocumentsAreNotRead) {  // and rows that stand at different places go on
  const Problem p = problem(2, 300);
  const at::Tensor starts = at::tensor({std::int64_t{90}, std::int64_t{300 + 130}, std::int64_t{300 + 131}});
  const std::vector<at::Tensor> row0{read(2, part(p, 0, 1, 0, 90)).y, read(2, part(p, 0, 1, 90, 210)).y};
  const std::vector<at::Tensor> row1{read(2, part(p, 1, 1, 0, 130)).y, read(2, part(p, 1, 1, 130, 1)).y,
                                     read(2, part(p, 1, 1, 131, 169)).y};
  const at::Tensor apart = at::cat({at::cat(row0, 1), at::cat(row1, 1)}, 0);
  EXPECT_LT(largest_difference(read(2, p, starts).y, apart), 1e-11);

  const at::Tensor early = at::tensor({std::int64_t{90}, std::int64_t{150 + 130}, std::int64_t{150 + 131}});
  const BoundaryRead first = read(2, part(p, 0, 2, 0, 150), early);
  const BoundaryRead second = read(2, part(p, 0, 2, 150, 150), {}, 150, first, {90, 131});
  EXPECT_LT(largest_difference(at::cat({first.y, second.y}, 1), apart), 1e-11);
}

TEST(BoundaryStates, BeforeTheFirstBoundaryItIsThePlainRecurrence) {
  const Problem p = problem(2, 64);
  EXPECT_TRUE(read(3, p).y.equal(kernels::wkv7(p.r, p.in.log_decay, p.in.k, p.v, p.in.a, p.in.b).y));
}

TEST(BoundaryStates, GradientsAreSlopes) {
  Problem p = problem(1, 140);
  const at::Tensor upstream = at::randn({1, 140, H, N}, at::detail::createCPUGenerator(20), at::kDouble);
  const auto loss = [&] { return read(2, p).y.mul(upstream).sum(); };
  for (at::Tensor* x : p.all()) x->requires_grad_();
  loss().backward();
  std::int64_t seed = 30;
  for (at::Tensor* x : p.all()) {
    const at::NoGradGuard no_grad;
    const at::Tensor direction = at::randn(x->sizes(), at::detail::createCPUGenerator(++seed), at::kDouble);
    const double slope = x->grad().mul(direction).sum().item<double>(), step = 1e-6;
    x->add_(direction, step);
    const double above = loss().item<double>();
    x->sub_(direction, 2 * step);
    const double below = loss().item<double>();
    x->add_(direction, step);
    EXPECT_NEAR((above - below) / (2 * step), slope,
                1e-6 * x->grad().norm().item<double>() * direction.norm().item<double>());
  }
}

}  // namespace
}  // namespace wuneng::model
