// Whole runs through the program: the promises of resuming and of rank counts, signals, and ranks that
// differ.
#include "trainer/train.h"

#include <gmock/gmock.h>
#include <signal.h>

#include <fstream>

#include "common/file.h"
#include "common/hash.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::HasSubstr;
using Train = TinyRun;

void expect_done(const Finished& finished) { EXPECT_EQ(finished.exit_code, 0) << finished.out; }

// ---- the same bits ----

TEST_F(Train, OneTwoAndFourRanksGiveTheSameBits) {
  const std::vector<std::string> overrides{"trainer.steps=6", "data.validation=" + corpus,
                                           "trainer.validate_every=3"};
  expect_done(run(program(train("alone", overrides))));
  for (int ranks : {2, 4})
    for (const std::string shard : {"true", "false"}) {
      const std::string name = std::to_string(ranks) + shard;
      std::vector<std::string> settings = overrides;
      settings.push_back("parallel.shard_optimizer=" + shard);
      expect_done(run(mpirun(ranks, train(name, settings))));
      EXPECT_EQ(tensors(name), tensors("alone")) << name;
      EXPECT_EQ(metrics(name), metrics("alone")) << name;
    }
}

TEST_F(Train, OneAndTwoThreadsGiveTheSameBits) {
  // Large enough for LibTorch's operators to be shared out: from 32,768 elements on.
  const std::string large = "data.sequence_length=128", batch = "trainer.micro_batch=8";
  for (const std::string model : {"model.norm=rms", "model.norm=layer", "model.ffn.kind=rwkv"}) {
    expect_done(
        run(program(train("one" + model, {"trainer.steps=4", "trainer.threads=1", large, batch, model}))));
    expect_done(
        run(program(train("two" + model, {"trainer.steps=4", "trainer.threads=2", large, batch, model}))));
    EXPECT_EQ(tensors("one" + model), tensors("two" + model)) << model;
  }
}

TEST_F(Train, TheSeedAloneDecides) {
  expect_done(run(program(train("a", {"trainer.steps=2", "seed=5"}))));
  expect_done(run(program(train("b", {"trainer.steps=2", "seed=5"}))));
  expect_done(run(program(train("c", {"trainer.steps=2", "seed=6"}))));
  EXPECT_EQ(tensors("a"), tensors("b"));
  EXPECT_NE(tensors("a"), tensors("c"));
}

TEST_F(Train, ARunStoppedAndResumedOnAnotherNumberOfRanksEndsWithTheBitsOfOneThatNeverStopped) {
  // 40 steps of 8 sequences pass the end of the corpus, so an epoch ends on the way.
  const std::vector<std::string> overrides{"trainer.steps=40", "optimizer.warmup_steps=5",
                                           "data.validation=" + corpus, "trainer.validate_every=10"};
  expect_done(run(program(train("straight", overrides))));
  std::vector<std::string> partly = overrides;
  partly.push_back("trainer.checkpoint.every=7");
  {
    Process first(program(train("stopped", partly)));
    ASSERT_TRUE(first.wait_for("step-00000014"));  // killed without warning after a save
    first.signal(SIGKILL);
    EXPECT_EQ(first.wait().exit_code, 128 + SIGKILL);
  }
  {
    Process second(mpirun(2, train("stopped", partly)));
    ASSERT_TRUE(second.wait_for("step-00000021"));
    second.signal(SIGUSR1);
    EXPECT_EQ(second.wait().exit_code, static_cast<int>(ExitCode::stopped));
  }
  expect_done(run(mpirun(4, train("stopped", partly))));
  EXPECT_EQ(tensors("stopped"), tensors("straight"));
  EXPECT_EQ(metrics("stopped"), metrics("straight"));
}

TEST_F(Train, AFinishedRunHasNothingToDoAndCanBeTrainedOn) {
  expect_done(run(program(train("run", {"trainer.steps=3", "optimizer.schedule=constant"}))));
  const Finished again = run(program(train("run", {"trainer.steps=3", "optimizer.schedule=constant"})));
  expect_done(again);
  EXPECT_THAT(again.out, HasSubstr("nothing to do"));
  expect_done(run(program(train("run", {"trainer.steps=5", "optimizer.schedule=constant"}))));
  expect_done(run(program(train("straight", {"trainer.steps=5", "optimizer.schedule=constant"}))));
  EXPECT_EQ(tensors("run"), tensors("straight"));
}

// ---- learning ----

TEST_F(Train, LossFallsFarBelowThatOfGuessing) {
  expect_done(run(program(train("run", {"trainer.steps=60", "trainer.threads=2"}))));
  std::istringstream lines(metrics("run"));
  std::string line, last;
  while (std::getline(lines, line)) last = line;
  const double loss = std::stod(last.substr(last.find("\"loss\":") + 7));
  EXPECT_LT(loss, 2.3);  // guessing costs ln 257 = 5.5 nats; the text's letters alone about 2.8
}

// ---- signals ----

TEST_F(Train, Usr2SavesAndGoesOnAndUsr1SavesAndStopsOnAllRanks) {
  Process job(mpirun(2, train("run", {"trainer.steps=100000", "trainer.log_every=1"})));
  ASSERT_TRUE(job.wait_for("step 3/"));
  job.signal(SIGUSR2);
  ASSERT_TRUE(job.wait_for("saved "));
  ASSERT_TRUE(job.wait_for("step "));
  job.signal(SIGUSR1);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::stopped)) << end.out;
  EXPECT_THAT(end.out, HasSubstr("run the same command again to go on"));
  EXPECT_THAT(tensors("run"), HasSubstr("head.weight"));
}

// ---- ranks that differ ----

TEST_F(Train, RanksOfDifferentConfigurationsAreNamed) {
  std::vector<std::string> command{"mpirun", "-n", "1", std::getenv("WUNENG")};
  const std::vector<std::string> ours = train("run"), theirs = train("run", {"optimizer.lr=1e-2"});
  command.insert(command.end(), ours.begin(), ours.end());
  command.insert(command.end(), {":", "-n", "1", std::getenv("WUNENG")});
  command.insert(command.end(), theirs.begin(), theirs.end());
  const Finished end = run(command);
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(end.out, HasSubstr("the configuration differs between the ranks: rank 0 has"));
  EXPECT_THAT(end.out, HasSubstr("rank 1 on"));
}

}  // namespace
}  // namespace wuneng::tests
