#include "parallel/checked.h"

#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/check.h"
#include "parallel/background.h"
#include "parallel/mesh.h"
#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using testing::HasSubstr;
using tests::world;

class CheckedCalls : public testing::Test {
 protected:
  // What the last rank's call beside the others' calls is told to be, on this rank.
  template <class Odd, class Others>
  std::string complaint(Odd odd, Others others) {
    try {
      if (is_last())
        odd();
      else
        others();
    } catch (const Error& error) {
      return error.what();
    }
    return "none";
  }
  bool is_last() const { return world().rank() == world().size() - 1; }
  std::string last() const { return fmt::format("rank {}: ", world().size() - 1); }

  std::unique_ptr<Communicator> group =
      make_checked(world().communicator().split(0), fmt::format("rank {}", world().rank()));
  const at::Tensor three = at::zeros({3}, at::kFloat);
};

TEST_F(CheckedCalls, ThatAreTheSameDoWhatTheyDo) {
  const at::Tensor one = at::full({1}, 1.0, at::kFloat);
  group->all_reduce_sum(one);
  EXPECT_EQ(one.item<double>(), group->size());
  EXPECT_EQ(group->all_gather_text(std::string(static_cast<std::size_t>(group->rank()), 'x')).back().size(),
            static_cast<std::size_t>(group->size() - 1));
  EXPECT_EQ(group->split(group->rank())->size(), 1);
}

TEST_F(CheckedCalls, OfAnotherKindAreNamedWithTheirRanks) {
  if (group->size() == 1) return;
  const std::string said = complaint([&] { group->barrier(); }, [&] { group->all_reduce_sum(three); });
  EXPECT_THAT(said, HasSubstr("ranks of one group make different calls: "));
  EXPECT_THAT(said, HasSubstr(last() + "barrier"));
  EXPECT_THAT(said, HasSubstr(group->size() == 2 ? "rank 0: all_reduce_sum of Float [3]"
                                                 : "rank 0, rank 1, rank 2: all_reduce_sum of Float [3]"));
}

TEST_F(CheckedCalls, OfAnotherShapeOrDtypeOrRootAreNamed) {
  if (group->size() == 1) return;
  const at::Tensor pair = at::zeros({3, 1}, at::kFloat), doubles = at::zeros({3}, at::kDouble);
  EXPECT_THAT(complaint([&] { group->all_reduce_sum(pair); }, [&] { group->all_reduce_sum(three); }),
              HasSubstr(last() + "all_reduce_sum of Float [3, 1]"));
  EXPECT_THAT(complaint([&] { group->all_reduce_sum(doubles); }, [&] { group->all_reduce_sum(three); }),
              HasSubstr(last() + "all_reduce_sum of Double [3]"));
  EXPECT_THAT(complaint([&] { group->broadcast(three, 1); }, [&] { group->broadcast(three, 0); }),
              HasSubstr(last() + "broadcast from rank 1 of the group of Float [3]"));
}

// As a mesh is asked to with parallel.check_calls; also on a thread of its own.
TEST_F(CheckedCalls, OfTheGroupsOfAMeshAreComparedInTheBackgroundToo) {
  if (group->size() == 1) return;
  const Mesh mesh({.data = group->size(), .tensor = 1, .check_calls = true}, world().communicator());
  Background background(mesh.data());
  background.submit([this](Communicator& c) { is_last() ? c.barrier() : c.all_reduce_sum(three); });
  const auto wait = [&] { background.wait(); };
  EXPECT_THAT(complaint(wait, wait), HasSubstr(last() + "barrier"));
}

}  // namespace
}  // namespace wuneng::parallel
