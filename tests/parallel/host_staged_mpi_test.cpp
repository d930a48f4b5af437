// Tensors on the CPU, whose copies take the same way as a GPU's.
#include "parallel/host_staged.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

class HostStagedCalls : public testing::Test {
 protected:
  std::unique_ptr<Communicator> group = make_host_staged(world().communicator().split(0));
  const int ranks = group->size();
  // Values of one rank; not contiguous, as only what travels must be.
  static at::Tensor of(int rank) { return at::arange(6, at::kFloat).add(10.0 * rank).view({2, 3}).t(); }
  at::Tensor of_all() const {
    std::vector<at::Tensor> rows;
    for (int r = 0; r < ranks; ++r) rows.push_back(of(r));
    return at::stack(rows);
  }
};

TEST_F(HostStagedCalls, SumsAndCopiesArriveInPlace) {
  const at::Tensor sum = of(group->rank()), copy = of(group->rank());
  group->all_reduce_sum(sum);
  EXPECT_TRUE(sum.equal(of_all().sum(0)));
  group->broadcast(copy, ranks - 1);
  EXPECT_TRUE(copy.equal(of(ranks - 1)));
}

TEST_F(HostStagedCalls, PiecesArriveWhereTheyBelong) {
  const at::Tensor all = at::zeros({ranks, 3, 2}, at::kFloat), mine = at::zeros({3, 2}, at::kFloat);
  group->all_gather(of(group->rank()), all);
  EXPECT_TRUE(all.equal(of_all()));
  group->reduce_scatter_sum(of_all(), mine);
  EXPECT_TRUE(mine.equal(of(group->rank()).mul(ranks)));
  const at::Tensor from_each = at::zeros({ranks, 3, 2}, at::kFloat);
  group->all_to_all(of_all().add(1000.0 * group->rank()), from_each);
  for (int r = 0; r < ranks; ++r) EXPECT_TRUE(from_each[r].equal(of(group->rank()).add(1000.0 * r))) << r;
}

TEST_F(HostStagedCalls, SendMeetsReceive) {
  if (ranks == 1) return;
  const at::Tensor there = at::zeros({3, 2}, at::kFloat);
  if (group->rank() == 0) group->send(of(7), 1);
  if (group->rank() == 1) {
    group->receive(there, 0);
    EXPECT_TRUE(there.equal(of(7)));
  }
  EXPECT_EQ(group->background()->size(), ranks);
}

}  // namespace
}  // namespace wuneng::parallel
