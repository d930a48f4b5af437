#include "parallel/communicator.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/check.h"
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
