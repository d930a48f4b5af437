#include "parallel/stream.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "common/check.h"
#include "parallel/layers.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

TEST(Stream, EnterSumsGradientsAndLeaveSumsValues) {
  Communicator& group = world().communicator();
  const Stream stream(group, false);
  const auto ranks = static_cast<double>(group.size());
  const at::Tensor x = at::full({3}, 2.0, at::kFloat).requires_grad_();
  stream.enter(x).mul(group.rank() + 1).sum().backward();
  EXPECT_TRUE(x.grad().equal(at::full({3}, ranks * (ranks + 1) / 2, at::kFloat)));

  const at::Tensor y = at::full({3}, group.rank() + 1.0, at::kFloat).requires_grad_();
  const at::Tensor sum = stream.leave(y);
  EXPECT_TRUE(sum.detach().equal(at::full({3}, ranks * (ranks + 1) / 2, at::kFloat)));
  sum.mul(5.0).sum().backward();
  EXPECT_TRUE(y.grad().equal(at::full({3}, 5.0, at::kFloat)));
}

// Values [2 rows, 3 tokens a rank, 2 channels] that say rank, row and token.
at::Tensor tokens_of(int rank) { return at::arange(2 * 3 * 2, at::kFloat).view({2, 3, 2}).add(100.0 * rank); }

TEST(Stream, InPartsEnterGathersTokensAndLeaveSumsAndDealsThem) {
  Communicator& group = world().communicator();
  const Stream stream(group, true);
  std::vector<at::Tensor> parts;
  for (int r = 0; r < group.size(); ++r) parts.push_back(tokens_of(r));
  const at::Tensor whole = at::cat(parts, 1), mine = tokens_of(group.rank()).requires_grad_();
  const auto ranks = static_cast<double>(group.size());

  const at::Tensor all = stream.enter(mine);
  EXPECT_TRUE(all.detach().equal(whole));
  EXPECT_TRUE(stream.here(whole).equal(mine.detach()));
  all.mul(whole).mul(group.rank() + 1).sum().backward();
  EXPECT_TRUE(mine.grad().equal(mine.detach().mul(ranks * (ranks + 1) / 2)));

  const at::Tensor partial = whole.mul(group.rank() + 1).requires_grad_();
  const at::Tensor left = stream.leave(partial);
  EXPECT_TRUE(left.detach().equal(mine.detach().mul(ranks * (ranks + 1) / 2)));
  left.mul(mine.detach()).sum().backward();
  EXPECT_TRUE(partial.grad().equal(whole));
}

TEST(Stream, InPartsRefusesTokensThatTheRanksDoNotDivide) {
  Communicator& group = world().communicator();
  const Stream stream(group, true);
  EXPECT_NO_THROW(stream.check_length(3 * group.size()));
  if (group.size() == 1) return;
  EXPECT_THROW(stream.check_length(3 * group.size() + 1), UsageError);
  EXPECT_NO_THROW(Stream(group, false).check_length(3 * group.size() + 1));
}

// Two layers split over the ranks compute what they compute whole, forward and backward.
TEST(Stream, SplitLayersAreTheWholeLayers) {
  const Initializer init = [](at::IntArrayRef shape, std::uint64_t seed) {
    return at::arange(c10::multiply_integers(shape), at::kFloat)
        .add_(static_cast<double>(seed % 97))
        .sin()
        .view(shape);
  };
  const at::Tensor input = at::arange(6 * 8, at::kFloat).cos().view({6, 8});
  const auto run = [&](Communicator& group, at::Tensor& grad, Parameters& parameters) {
    const LayerBuilder layers(parameters, group, 3);
    const ColumnLinear in = layers.column_linear("in", 8, 4, 2, init);
    const RowLinear out = layers.row_linear("out", {{"x", 4, 2, init}, {"y", 4, 2, init}}, 5);
    const Stream stream(group, false);
    const at::Tensor x = input.clone().requires_grad_();
    const at::Tensor heads = in(stream.enter(x));
    const at::Tensor y = out({heads, heads.square()}, stream);
    y.square().sum().backward();
    grad = x.grad();
    return y.detach();
  };
  at::Tensor grad_split, grad_whole;
  Parameters split, whole;
  const at::Tensor y_split = run(world().communicator(), grad_split, split);
  const at::Tensor y_whole = run(*make_single(), grad_whole, whole);
  EXPECT_TRUE(y_split.allclose(y_whole, 1e-5, 1e-5));
  EXPECT_TRUE(grad_split.allclose(grad_whole, 1e-4, 1e-4));
  for (std::size_t i = 0; i < split.size(); ++i) {
    const Parameter &part = split[i], &all = whole[i];
    const std::int64_t extent = part.value.size(part.shard_dim);
    EXPECT_TRUE(part.value.equal(all.value.narrow(part.shard_dim, part.shard_begin, extent))) << part.name;
    EXPECT_TRUE(part.value.grad().allclose(all.value.grad().narrow(part.shard_dim, part.shard_begin, extent),
                                           1e-4, 1e-4))
        << part.name;
  }
}

}  // namespace
}  // namespace wuneng::parallel
