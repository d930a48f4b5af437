// Killed again and again: a run of 200 steps with SIGKILL at random moments, on 1, 2 and 4 ranks in turn,
// ends with the bits of one that nobody touched.
#include <signal.h>

#include <random>

#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using TrainSoak = TinyRun;

TEST_F(TrainSoak, KilledAtRandomMomentsEndsWithTheSameBits) {
  const std::vector<std::string> overrides{"trainer.steps=200", "trainer.log_every=1",
                                           "trainer.checkpoint.every=5", "data.validation=" + corpus,
                                           "trainer.validate_every=50"};
  ASSERT_EQ(run(program(train("straight", overrides))).exit_code, 0);
  std::mt19937 random(11);
  int kills = 0;
  for (int attempt = 0;; ++attempt) {
    ASSERT_LT(attempt, 300);
    const int ranks = 1 << attempt % 3;
    const std::vector<std::string> arguments = train("killed", overrides);
    Process job(ranks == 1 ? program(arguments) : mpirun(ranks, arguments));
    // Some steps of this attempt, then somewhere in the middle of what comes next.
    bool alive = true;
    for (unsigned lines = random() % 25; alive && lines > 0; --lines) alive = job.wait_for_more();
    if (alive) {
      job.signal(SIGKILL);
      ++kills;
      job.wait();
      continue;
    }
    const Finished end = job.wait();
    ASSERT_EQ(end.exit_code, 0) << end.out;
    break;
  }
  printf("%d kills\n", kills);
  EXPECT_GT(kills, 5);
  EXPECT_EQ(tensors("killed"), tensors("straight"));
  EXPECT_EQ(metrics("killed"), metrics("straight"));
}

}  // namespace
}  // namespace wuneng::tests
