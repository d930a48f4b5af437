#include "parallel/gradient_tree.h"

#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "common/check.h"
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

Parameters two_parameters() {
  Parameters parameters;
  parameters.push_back({"a", at::zeros({5, 13}, at::kFloat).requires_grad_(), {5, 13}});
  parameters.push_back({"b", at::zeros({300001}, at::kFloat).requires_grad_(), {300001}});
  return parameters;
}

class TreeOverRanks : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(MicroBatches, TreeOverRanks, testing::Values(4, 8, 12, 20, 32));

TEST_P(TreeOverRanks, SumHasTheBitsOfTheDefinition) {
  const std::int64_t micro_batches = GetParam();
  const Parameters parameters = two_parameters();
  GradientTree tree(parameters, world().communicator(), micro_batches);
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
    const std::vector<at::Tensor>& sums = tree.reduce();
    for (std::int64_t p = 0; p < 2; ++p) {
      const auto* sum = sums[p].const_data_ptr<float>();
      for (std::int64_t i = 0; i < sums[p].numel(); i += (p == 0 ? 1 : 997)) {
        const float expected = tree_sum(0, micro_batches, [&](std::int64_t m) { return gradient(m, p, i); });
        ASSERT_EQ(std::memcmp(&sum[i], &expected, sizeof expected), 0)
            << "parameter " << p << " element " << i;
      }
    }
  }
}

TEST(GradientTree, HoldsALogarithmicNumberOfBuffers) {
  const Parameters parameters = two_parameters();
  GradientTree tree(parameters, world().communicator(), 64);
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
  EXPECT_THROW(check_tree(12, 3), UsageError);  // not a power of two
  EXPECT_THROW(check_tree(12, 8), UsageError);  // does not divide
  EXPECT_NO_THROW(check_tree(12, 4));
  try {
    check_tree(12, 8);
  } catch (const UsageError& error) {
    EXPECT_NE(std::string(error.what()).find("1, 2, 4"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace wuneng::parallel
