// Killed again and again: 200 times SIGKILL at random moments, on 1, 2 and 4 ranks in turn.
#include "tests/trainer/killed_run.h"

namespace wuneng::tests {
namespace {

using TrainSoak = KilledRun;

TEST_F(TrainSoak, KilledTwoHundredTimesEndsWithTheSameBits) {
  const Counts counts = expect_same_after(200, 2000, 16, {1, 2, 4});
  printf("%d kills, %d of them in the middle of a save\n", counts.kills, counts.in_saves);
  EXPECT_GT(counts.in_saves, 10);
}

}  // namespace
}  // namespace wuneng::tests
