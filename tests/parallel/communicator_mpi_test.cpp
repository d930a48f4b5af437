#include "parallel/communicator.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/check.h"
#include "parallel/background.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using tests::world;

// Sizes below, at and above the pieces that large calls are cut into.
class CommunicatorSizes : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Elements, CommunicatorSizes, testing::Values(1, 7, 1 << 18, (1 << 20) + 3));

TEST_P(CommunicatorSizes, AllGatherPutsEachRankInItsPlace) {
  const std::int64_t n = GetParam();
  Communicator& group = world().communicator();
  const at::Tensor mine = at::arange(n, at::kFloat).add_(1000 * group.rank());
  const at::Tensor all = at::full({group.size(), n}, -1.0, at::kFloat);
  group.all_gather(mine, all);
  for (int r = 0; r < group.size(); ++r)
    EXPECT_TRUE(all[r].equal(at::arange(n, at::kFloat).add_(1000 * r))) << "from rank " << r;
}

TEST_P(CommunicatorSizes, AllToAllTransposesPieces) {
  const std::int64_t n = GetParam();
  Communicator& group = world().communicator();
  const at::Tensor send = at::empty({group.size(), n}, at::kFloat),
                   received = at::full({group.size(), n}, -1.0, at::kFloat);
  for (int r = 0; r < group.size(); ++r)
    send[r].copy_(at::arange(n, at::kFloat).add_(100 * group.rank() + 10 * r));
  group.all_to_all(send, received);
  for (int r = 0; r < group.size(); ++r)
    EXPECT_TRUE(received[r].equal(at::arange(n, at::kFloat).add_(100 * r + 10 * group.rank())))
        << "from rank " << r;
}

TEST_P(CommunicatorSizes, AllReduceAddsAndBroadcastCopies) {
  const std::int64_t n = GetParam();
  Communicator& group = world().communicator();
  const at::Tensor values = at::full({n}, group.rank() + 1, at::kDouble);
  group.all_reduce_sum(values);
  EXPECT_TRUE(values.equal(at::full({n}, group.size() * (group.size() + 1) / 2, at::kDouble)));
  const at::Tensor copied = at::full({n}, group.rank(), at::kLong);
  group.broadcast(copied, group.size() - 1);
  EXPECT_TRUE(copied.equal(at::full({n}, group.size() - 1, at::kLong)));
}

TEST_P(CommunicatorSizes, ReduceScatterAddsPieces) {
  const std::int64_t n = GetParam();
  const auto patient = world().communicator().background();
  for (Communicator* group : {&world().communicator(), patient.get()}) {
    const at::Tensor all = at::empty({group->size(), n}, at::kFloat), mine = at::empty({n}, at::kFloat);
    for (int r = 0; r < group->size(); ++r) all[r].copy_(at::arange(n, at::kFloat).mul_(r + 1));
    group->reduce_scatter_sum(all, mine);
    EXPECT_TRUE(mine.equal(at::arange(n, at::kFloat).mul_((group->rank() + 1) * group->size())));
  }
}

TEST_P(CommunicatorSizes, GathersInPlaceAndInTheBackground) {
  const std::int64_t n = GetParam();
  const auto patient = world().communicator().background();
  for (Communicator* group : {&world().communicator(), patient.get()}) {
    const at::Tensor all = at::full({group->size(), n}, -1.0, at::kFloat);
    all[group->rank()].copy_(at::arange(n, at::kFloat).add_(1000 * group->rank()));
    group->all_gather(all[group->rank()], all);
    for (int r = 0; r < group->size(); ++r)
      EXPECT_TRUE(all[r].equal(at::arange(n, at::kFloat).add_(1000 * r)));
  }
}

TEST_P(CommunicatorSizes, SendMeetsReceive) {
  Communicator& group = world().communicator();
  if (group.size() == 1) return;
  const at::Tensor expected = at::arange(GetParam(), at::kFloat), got = at::zeros_like(expected);
  if (group.rank() == 0) group.send(expected, 1);
  if (group.rank() == 1) {
    group.receive(got, 0);
    EXPECT_TRUE(got.equal(expected));
  }
}

TEST(Background, CallsRunInOrderAndTheFirstFailureIsThrownByWait) {
  Background group(world().communicator());
  std::vector<int> order;
  for (int i = 0; i < 5; ++i) group.submit([&order, i](Communicator&) { order.push_back(i); });
  group.wait();
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3, 4}));
  const auto fail = [](Communicator&) { throw Error("the test's fault"); };
  if (group.size() == 1) {  // runs at once
    EXPECT_THROW(group.submit(fail), Error);
    return;
  }
  group.submit(fail);
  group.submit([&order](Communicator&) { order.push_back(5); });
  EXPECT_THROW(group.wait(), Error);
  EXPECT_EQ(order.size(), 5u);
}

TEST(Background, IsBrokenOffWhileItWaitsForRanksThatDoNotCome) {
  Background group(world().communicator());
  const at::Tensor all = at::zeros({group.size()}, at::kFloat);
  if (group.rank() == 0) group.submit([all](Communicator& c) { c.all_gather(all[0].view(1), all); });
}  // the destructor of rank 0 would wait for ever

TEST(Communicator, GatheredHasARowForEachRank) {
  Communicator& group = world().communicator();
  const at::Tensor columns = at::full({3, 2}, group.rank(), at::kLong).t();  // not contiguous
  const at::Tensor all = gathered(columns, group);
  ASSERT_EQ(all.sizes(), at::IntArrayRef({group.size(), 2, 3}));
  for (int r = 0; r < group.size(); ++r) EXPECT_TRUE(all[r].eq(r).all().item<bool>()) << r;
}

TEST(Communicator, TextsOfDifferentLengths) {
  Communicator& group = world().communicator();
  const auto texts = group.all_gather_text(std::string(static_cast<std::size_t>(group.rank()), 'x'));
  for (int r = 0; r < group.size(); ++r) EXPECT_EQ(texts[r], std::string(static_cast<std::size_t>(r), 'x'));
}

TEST(Communicator, SplitKeepsOrderInsideEachColour) {
  Communicator& group = world().communicator();
  const auto part = group.split(group.rank() % 2);
  EXPECT_EQ(part->rank(), group.rank() / 2);
  EXPECT_EQ(part->size(), (group.size() + 1 - group.rank() % 2) / 2);
}

TEST(Communicator, MisuseIsRefusedWithTheNumbers) {
  Communicator& group = world().communicator();
  if (group.size() == 1) return;  // the single-process communicator leaves these checks to copy_()
  EXPECT_THROW(group.all_gather(at::empty({3}, at::kFloat), at::empty({5}, at::kFloat)), Error);
  EXPECT_THROW(group.all_to_all(at::empty({group.size() * 2 + 1}, at::kFloat),
                                at::empty({group.size() * 2 + 1}, at::kFloat)),
               Error);
  EXPECT_THROW(group.all_reduce_sum(at::empty({4}, at::kHalf)), Error);
  EXPECT_THROW(group.broadcast(at::empty({4, 4}, at::kFloat).t().narrow(0, 0, 2), 0), Error);
}

}  // namespace
}  // namespace wuneng::parallel
