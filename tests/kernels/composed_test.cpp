// What CUDA runs in place of the CPU's own loops, on the CPU, against them.
#include "kernels/composed.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/where.h>
#include <gtest/gtest.h>

#include <limits>

#include "kernels/activation.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "kernels/sum_of_squares.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

void expect_alike(const Op& op, const Op& own, const std::vector<at::Tensor>& inputs) {
  const Derivatives got = differentiate(op, inputs), expected = differentiate(own, inputs);
  for (std::size_t i = 0; i < expected.outputs.size(); ++i)
    EXPECT_LT(error_ratio(got.outputs[i], expected.outputs[i]), 1e-12) << "output " << i;
  for (std::size_t i = 0; i < expected.gradients.size(); ++i)
    EXPECT_LT(error_ratio(got.gradients[i], expected.gradients[i]), 1e-12) << "gradient of input " << i;
}

TEST(Composed, NormsAreTheCpusOwn) {
  constexpr double eps = 1e-3;
  const at::Tensor x = normal({3, 5, 4, 16}, 1), channels = normal({16}, 2), heads = normal({4, 16}, 3);
  expect_alike([](const auto& in) { return std::vector{composed::rms_norm(in[0], in[1], eps)}; },
               [](const auto& in) { return std::vector{rms_norm(in[0], in[1], eps)}; }, {x, channels});
  expect_alike([](const auto& in) { return std::vector{composed::rms_norm(in[0], in[1], eps)}; },
               [](const auto& in) { return std::vector{head_rms_norm(in[0], in[1], eps)}; }, {x, heads});
  expect_alike([](const auto& in) { return std::vector{composed::layer_norm(in[0], in[1], in[2], eps)}; },
               [](const auto& in) { return std::vector{layer_norm(in[0], in[1], in[2], eps)}; },
               {x, channels, normal({16}, 4)});
}

TEST(Composed, RopeAndActivationsAreTheCpusOwn) {
  expect_alike([](const auto& in) { return std::vector{composed::rope(in[0], 5, 100.0, 0.375)}; },
               [](const auto& in) { return std::vector{rope(in[0], 5, 100.0, 0.375)}; },
               {normal({2, 33, 3, 16}, 1)});
  expect_alike([](const auto& in) { return std::vector{composed::swiglu(in[0], in[1])}; },
               [](const auto& in) { return std::vector{swiglu(in[0], in[1])}; },
               {normal({5, 40}, 1), normal({5, 40}, 2)});
  expect_alike([](const auto& in) { return std::vector{composed::squared_relu(in[0])}; },
               [](const auto& in) { return std::vector{squared_relu(in[0])}; }, {normal({5, 40}, 1)});
}

TEST(Composed, BfloatsAreTurnedInFloat) {
  const at::Tensor x = normal({1, 9, 2, 8}, 1).to(at::kBFloat16);
  const at::Tensor got = composed::rope(x, 1000, 1e4, 1.0);
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(got.equal(rope(x.to(at::kFloat), 1000, 1e4).to(at::kBFloat16)));
}

TEST(Composed, AnUpdateIsTheCpusOwn) {
  constexpr std::int64_t n = 1003;
  for (const double weight_decay : {0.0, 0.1}) {
    const AdamWStep step{.lr = 1e-2,
                         .beta1 = 0.9,
                         .beta2 = 0.99,
                         .eps = 1e-8,
                         .weight_decay = weight_decay,
                         .scale = 0.3,
                         .updates = 3};
    const auto updated = [&](const auto& update) {
      const at::Tensor w = normal({n}, 1, at::kFloat), g = normal({n}, 2, at::kFloat),
                       m = normal({n}, 3, at::kFloat), v = normal({n}, 4, at::kFloat).square();
      update(w, g, m, v, step);
      return std::vector{w, m, v};
    };
    const auto got = updated(composed::adamw), expected = updated(adamw);
    for (std::size_t i = 0; i < got.size(); ++i) EXPECT_LT(error_ratio(got[i], expected[i]), 1e-6) << i;
  }
}

TEST(Composed, SumsOfSquaresAreTheCpusOwn) {
  const at::Tensor x = normal({12 * 256}, 1, at::kFloat);
  EXPECT_LT(error_ratio(composed::sums_of_squares(x, 256), sums_of_squares(x, 256)), 1e-14);
}

// Three shards of a vocabulary of 20 ids, the last with a padded column, one after the other: first to hear
// what each says of its columns, then to tell each what all said.
TEST(Composed, ShardsOfAVocabularyAreTheWhole) {
  constexpr std::int64_t n = 9, rows = 7, V = 20;
  const LogitPenalties penalties{.z_loss = 0.3, .pull = 0.2};
  const at::Tensor whole = normal({n, V}, 1).mul(3).requires_grad_();
  const at::Tensor targets =
      at::arange(n).mul(5).remainder(V).index_fill(0, at::tensor({std::int64_t{4}}), -1);
  const at::Tensor log_sum = whole.logsumexp(1), real = targets.ge(0).to(at::kDouble);
  const at::Tensor losses =
      log_sum.sub(whole.gather(1, targets.clamp_min(0).unsqueeze(1)).squeeze(1)).mul(real);
  const at::Tensor objectives = losses.add(log_sum.square().mul(penalties.z_loss).mul(real))
                                    .add(whole.amax(1).square().mul(penalties.pull / 2).mul(real));
  objectives.sum().backward();

  std::vector<at::Tensor> said(3), gradients(3);
  for (const bool told : {false, true})
    for (std::int64_t shard = 0; shard < 3; ++shard) {
      const std::int64_t begin = shard * rows, vocab = std::min(rows, V - begin);
      const at::Tensor logits = at::full({n, rows}, 1e9, at::kDouble);
      logits.narrow(1, 0, vocab).copy_(whole.detach().narrow(1, begin, vocab));
      const at::Tensor column = targets.sub(begin), here = column.ge(0).logical_and(column.lt(vocab));
      const at::Tensor found = at::where(targets.lt(0), std::int64_t{-1},
                                         at::where(here, column, std::numeric_limits<std::int64_t>::min()));
      const composed::ShardRows block{
          logits, found, at::empty({n}, at::kDouble), at::empty({n}, at::kDouble), logits, vocab, penalties};
      composed::shard_rows(block, {.begin = begin,
                                   .shards = 3,
                                   .mine = shard,
                                   .whole_size = V,
                                   .gather = [&](const at::Tensor& mine) {
                                     said[static_cast<std::size_t>(shard)] = mine;
                                     return told ? at::stack(said) : at::stack({mine, mine, mine});
                                   }});
      if (!told) continue;
      EXPECT_LT(error_ratio(block.losses, losses), 1e-12);
      EXPECT_LT(error_ratio(block.objectives, objectives), 1e-12);
      gradients[static_cast<std::size_t>(shard)] = logits;
    }
  const at::Tensor all = at::cat(gradients, 1);
  EXPECT_LT(error_ratio(all.narrow(1, 0, V), whole.grad()), 1e-12);
  EXPECT_TRUE(all.narrow(1, V, 1).eq(0).all().item<bool>()) << "the padded column";
}

}  // namespace
}  // namespace wuneng::kernels::tests
