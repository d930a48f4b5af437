// A run that is killed again and again, on other numbers of ranks each time.
#pragma once

#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/tiny_run.h"

namespace wuneng::tests {

class KilledRun : public TinyRun {
 protected:
  struct Counts {
    int kills = 0;
    int in_saves = 0;  // that left a part of a checkpoint
  };

  // Trains a run that nobody touches, and one that is killed with SIGKILL `kills` times at random moments,
  // up to `most_steps` steps after it began or went on; the attempts take turns through `ranks`. Both must
  // end with the same tensors and metrics. `steps` are enough that the run does not end before the last kill.
  Counts expect_same_after(int kills, int steps, unsigned most_steps, const std::vector<int>& ranks) {
    const std::vector<std::string> overrides{"trainer.steps=" + std::to_string(steps), "trainer.log_every=1",
                                             "trainer.checkpoint.every=3", "data.validation=" + corpus,
                                             "trainer.validate_every=" + std::to_string(steps / 4)};
    expect_done(run(program(train("straight", overrides))));
    const std::vector<std::string> arguments = train("killed", overrides);
    std::mt19937 random(11);
    Counts counts;
    for (std::size_t attempt = 0; counts.kills < kills; ++attempt) {
      const int n = ranks[attempt % ranks.size()];
      Process job(n == 1 ? program(arguments) : mpirun(n, arguments));
      bool alive = true;
      const unsigned lines = random() % most_steps;
      for (unsigned i = 0; alive && i < lines; ++i) alive = job.wait_for_more();
      // Then somewhere in what comes next: a step, a save, or all that a start does.
      std::this_thread::sleep_for(std::chrono::microseconds(random() % (lines > 0 ? 40'000 : 800'000)));
      kill_one(job, n, random());
      const Finished end = job.wait();
      wait_for_orphans(n);
      if (end.exit_code == 0) {
        ADD_FAILURE() << "the run ended after " << counts.kills << " kills: " << end.out;
        return counts;
      }
      EXPECT_NE(end.exit_code, 2) << end.out;
      ++counts.kills;
      if (holds_part_of_a_checkpoint()) ++counts.in_saves;
    }
    expect_done(run(program(arguments)));
    EXPECT_EQ(tensors("killed"), tensors("straight"));
    EXPECT_EQ(metrics("killed"), metrics("straight"));
    return counts;
  }

 private:
  static void expect_done(const Finished& end) { ASSERT_EQ(end.exit_code, 0) << end.out; }

  // One rank of a job, or mpirun itself: in each case all must end.
  void kill_one(const Process& job, int ranks, unsigned choice) const {
    const int rank = static_cast<int>(choice % static_cast<unsigned>(ranks + 1));
    const int process = ranks > 1 && rank < ranks ? process_of_rank(rank, (scratch / "killed").string()) : 0;
    if (process > 0)
      ::kill(process, SIGKILL);
    else
      job.signal(SIGKILL);
  }

  // Ranks whose mpirun was killed notice it a little later; the next kill must not hit them instead.
  void wait_for_orphans(int ranks) const {
    for (int rank = 0; ranks > 1 && rank < ranks; ++rank)
      while (process_of_rank(rank, (scratch / "killed").string()) > 0) ::usleep(1000);
  }

  bool holds_part_of_a_checkpoint() const {
    const std::filesystem::path checkpoints = (scratch / "killed") / "checkpoints";
    if (!std::filesystem::exists(checkpoints)) return false;
    for (const auto& entry : std::filesystem::directory_iterator(checkpoints))
      if (!std::filesystem::exists(entry.path() / "manifest.json")) return true;
    return false;
  }
};

}  // namespace wuneng::tests
