#include "parallel/gradient_tree.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>

#include "common/check.h"
#include "parallel/flat_parameters.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

// The gradient of micro-batch m for a parameter, of very different magnitudes so that the order of additions
// shows in the bits.
float gradient(std::int64_t m, std::int64_t parameter, std::int64_t i) {
  const double x = std::sin(static_cast<double>(m * 7919 + parameter * 104729 + i * 31 + 1));
  return static_cast<float>(x * std::pow(10.0, static_cast<double>((m * 5 + i) % 9) - 4.0));
}

// The definition of the tree, written by recursion: halve while even, then add in order.
float tree_sum(std::int64_t first, std::int64_t count, const std::function<float(std::int64_t)>& leaf) {
  if (count % 2 == 0) return tree_sum(first, count / 2, leaf) + tree_sum(first + count / 2, count / 2, leaf);
  float sum = 0.0f;
  for (std::int64_t m = first; m < first + count; ++m) sum += leaf(m);
  return sum;
}

bool is_owned(const FlatLayout& layout, std::int64_t element) {
  return std::ranges::any_of(layout.owned(), [&](const FlatLayout::Range& range) {
    return element >= range.begin && element < range.end();
  });
}

Parameters two_parameters() {
  Parameters parameters;
  parameters.push_back({"a", at::zeros({5, 13}, at::kFloat).requires_grad_(), {5, 13}});
  parameters.push_back({"b", at::zeros({300001}, at::kFloat).requires_grad_(), {300001}});
  return parameters;
}

// Micro-batches, and whether each rank gets its pieces of the sum or all of it.
class TreeOverRanks : public testing::TestWithParam<std::pair<std::int64_t, bool>> {};
INSTANTIATE_TEST_SUITE_P(MicroBatches, TreeOverRanks,
                         testing::Values(std::pair(4, true), std::pair(4, false), std::pair(8, true),
                                         std::pair(12, false), std::pair(20, true), std::pair(32, true)));

TEST_P(TreeOverRanks, SumHasTheBitsOfTheDefinition) {
  const std::int64_t micro_batches = GetParam().first;
  const Parameters parameters = two_parameters();
  Background group(world().communicator());
  const FlatLayout layout(parameters, group.size(), group.rank(), GetParam().second);
  GradientTree tree(parameters, layout, group, micro_batches);
  const std::int64_t first = world().rank() * tree.local_micro_batches();
  for (int step = 0; step < 2; ++step) {  // the second step reuses the buffers of the first
    for (std::int64_t m = first; m < first + tree.local_micro_batches(); ++m) {
      tree.begin_micro_batch();
      for (std::int64_t p = 0; p < 2; ++p) {
        auto* grad = parameters[p].value.grad().mutable_data_ptr<float>();
        for (std::int64_t i = 0; i < parameters[p].value.numel(); ++i) grad[i] += gradient(m, p, i);
      }
      tree.end_micro_batch();
    }
    const std::vector<at::Tensor> sums = layout.views(tree.reduce());
    for (std::int64_t p = 0; p < 2; ++p) {
      const auto* sum = sums[p].const_data_ptr<float>();
      for (std::int64_t i = 0; i < sums[p].numel(); i += (p == 0 ? 1 : 997)) {
        if (!is_owned(layout, layout.place(p).begin + i)) continue;
        const float expected = tree_sum(0, micro_batches, [&](std::int64_t m) { return gradient(m, p, i); });
        ASSERT_EQ(std::memcmp(&sum[i], &expected, sizeof expected), 0)
            << "parameter " << p << " element " << i;
      }
    }
  }
}

// Two buckets and more, whose gradients a backward pass finishes one by one.
TEST(GradientTree, BucketsThatLeaveDuringTheBackwardPassHaveTheSameSum) {
  Parameters parameters;
  for (const char* name : {"a", "b", "c"})
    parameters.push_back({name, at::ones({3 << 20}, at::kFloat).requires_grad_(), {3 << 20}});
  parameters.push_back({"unused", at::ones({7}, at::kFloat).requires_grad_(), {7}});
  for (const Reduction reduction : {Reduction::tree, Reduction::fast}) {
    Background group(world().communicator());
    const FlatLayout layout(parameters, group.size(), group.rank(), true);
    ASSERT_GT(layout.buckets(), 2u);
    GradientTree tree(parameters, layout, group, 8, reduction);
    for (std::int64_t m = 0; m < tree.local_micro_batches(); ++m) {
      tree.begin_micro_batch();
      const at::Tensor factor =
          at::full({}, static_cast<double>(1 + m + group.rank() * tree.local_micro_batches()), at::kFloat);
      at::Tensor product = factor;
      for (std::size_t i = 0; i < 3; ++i) product = product.mul(parameters[i].value);
      product.sum().backward();
      tree.end_micro_batch();
    }
    const at::Tensor& sum = tree.reduce();
    for (std::size_t i = 0; i < parameters.size(); ++i)
      for (const FlatLayout::Range& range : layout.owned())
        EXPECT_TRUE(layout.part(i, range).of(sum).eq(i < 3 ? 36.0 : 0.0).all().item<bool>()) << i;
  }
}

TEST(FlatParameters, AreWholeAgainAfterEachRankHasUpdatedItsPieces) {
  const Parameters parameters = two_parameters();
  Background group(world().communicator());
  const FlatLayout layout(parameters, group.size(), group.rank(), true);
  FlatParameters flat(parameters, layout, group);
  for (const FlatLayout::Range& range : layout.owned())
    range.of(flat.values()).copy_(at::arange(range.begin, range.end(), at::kFloat));
  flat.updated();
  flat.wait_for(1);
  EXPECT_TRUE(parameters[0].value.detach().flatten().equal(
      at::arange(layout.place(0).begin, layout.place(0).end(), at::kFloat)));
  flat.wait();
  EXPECT_TRUE(flat.values().equal(at::arange(layout.size(), at::kFloat)));
}

TEST(GradientTree, HoldsALogarithmicNumberOfBuffers) {
  const Parameters parameters = two_parameters();
  Background group(world().communicator());
  const FlatLayout layout(parameters, group.size(), group.rank(), true);
  GradientTree tree(parameters, layout, group, 64);
  std::int64_t levels = 1;
  for (std::int64_t n = tree.local_micro_batches(); n > 1; n /= 2) ++levels;
  for (std::int64_t m = 0; m < tree.local_micro_batches(); ++m) {
    tree.begin_micro_batch();
    tree.end_micro_batch();
    EXPECT_LE(tree.buffers(), levels);
  }
  tree.reduce();
}

TEST(GradientTree, RefusesRankCountsThatWouldChangeTheSum) {
  EXPECT_THROW(check_tree(12, 3, Reduction::tree), UsageError);  // not a power of two
  EXPECT_THROW(check_tree(12, 8, Reduction::tree), UsageError);  // does not divide
  EXPECT_THROW(check_tree(12, 8, Reduction::fast), UsageError);
  EXPECT_NO_THROW(check_tree(12, 4, Reduction::tree));
  EXPECT_NO_THROW(check_tree(12, 3, Reduction::fast));
  try {
    check_tree(12, 8, Reduction::tree);
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("1, 2, 4"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace wuneng::parallel
