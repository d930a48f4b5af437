#include "trainer/checkpoint/saver.h"

#include <ATen/ops/full.h>
#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "tests/trainer/checkpoint_support.h"

namespace wuneng::trainer {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using tests::Scratch;

class Saver : public testing::Test {
 protected:
  Saver() : alone_(parallel::make_single()) {}
  CheckpointSaver::Outcome finish(CheckpointSaver& saver) {
    const auto outcome = saver.wait();
    EXPECT_TRUE(outcome.has_value());
    return outcome.value_or(CheckpointSaver::Outcome{});
  }

  Scratch scratch_;
  std::unique_ptr<parallel::Communicator> alone_;
};

TEST_F(Saver, KeepsWhatTheTensorsHeldWhenItBegan) {
  CheckpointSaver saver(scratch_.path(), {}, *alone_);
  EXPECT_FALSE(saver.poll().has_value());
  EXPECT_FALSE(saver.wait().has_value());
  Shard live = shard_at(7);
  saver.begin(info_at(7), live);
  for (TensorPieces& tensor : live)
    for (Piece& piece : tensor.pieces) piece.data.zero_();
  const auto outcome = finish(saver);
  EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(outcome.folder, scratch_ / "step-00000007");
  EXPECT_FALSE(saver.poll().has_value()) << "an outcome is given out once";
  expect_intact(outcome.folder);
}

TEST_F(Saver, TheLastSaveNeedsNoCopy) {
  CheckpointSaver saver(scratch_.path(), {}, *alone_);
  saver.begin_last(info_at(7), shard_at(7));
  EXPECT_EQ(finish(saver).error, "");
  EXPECT_EQ(saver.staging_bytes(), 0);
  expect_intact(scratch_ / "step-00000007");
}

TEST_F(Saver, SavesOneAfterTheOtherIntoTheSameMemory) {
  CheckpointSaver saver(scratch_.path(), {.newest = 2}, *alone_);
  std::size_t bytes = 0;
  for (const std::int64_t step : {1, 2, 3, 4}) {
    saver.begin(info_at(step), shard_at(step));
    if (step > 1) {
      EXPECT_EQ(saver.staging_bytes(), bytes);
    }
    bytes = saver.staging_bytes();
  }
  EXPECT_EQ(finish(saver).error, "");
  EXPECT_THAT(names_in(scratch_.path()), ElementsAre("step-00000003", "step-00000004"));
  for (const std::string& name : names_in(scratch_.path())) expect_intact(scratch_ / name);
}

TEST_F(Saver, ItsEndWaitsForTheSaveInFlight) {
  { CheckpointSaver(scratch_.path(), {}, *alone_).begin(info_at(5), shard_at(5)); }
  expect_intact(scratch_ / "step-00000005");
}

TEST_F(Saver, ADivergedModelIsNotSavedAndPushesNoneOut) {
  CheckpointSaver saver(scratch_.path(), {.newest = 1}, *alone_);
  saver.begin(info_at(1), shard_at(1));
  EXPECT_EQ(finish(saver).error, "");
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Shard shard = shard_at(2);
    shard[0].pieces[0].data[2][1] = bad;
    saver.begin(info_at(2), shard);
    EXPECT_THAT(finish(saver).error, HasSubstr("model embedding.weight: holds values that are not finite"));
  }
  EXPECT_THAT(names_in(scratch_.path()), ElementsAre("step-00000001"));
  expect_intact(scratch_ / "step-00000001");
}

TEST_F(Saver, ValuesThatAreNotFiniteAreFoundWhereverTheyAre) {
  CheckpointSaver saver(scratch_.path(), {}, *alone_);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    for (const double bad : {std::numeric_limits<double>::quiet_NaN(), HUGE_VAL, -HUGE_VAL})
      for (const std::int64_t place : {0, 1234, 9999}) {
        const at::Tensor values = at::full({10000}, 1.0, dtype);
        values[place] = bad;
        saver.begin(info_at(1), whole_tensors("model", {{"x", values}}));
        const auto outcome = finish(saver);
        EXPECT_THAT(outcome.error, HasSubstr("model x: holds values that are not finite")) << dtype << bad;
        EXPECT_FALSE(std::filesystem::exists(outcome.folder));
      }
}

TEST_F(Saver, AFailureIsAnOutcomeAndTheNextSaveIsMade) {
  CheckpointSaver saver(scratch_.path(), {}, *alone_);
  put(scratch_ / "step-00000002", "in the way");
  saver.begin(info_at(2), shard_at(2));
  EXPECT_THAT(finish(saver).error, HasSubstr("step-00000002"));
  saver.begin(info_at(3), shard_at(3));
  EXPECT_EQ(finish(saver).error, "");
  expect_intact(scratch_ / "step-00000003");
}

}  // namespace
}  // namespace wuneng::trainer
