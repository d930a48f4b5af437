// Jobs over two hosts with two ranks each: the same bits as one process, and what happens when a rank, a
// network or a whole host fails.
#include "tests/multinode/hosts.h"

#include <gmock/gmock.h>
#include <signal.h>

#include "common/check.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class Multinode : public TinyRun {
 protected:
  void SetUp() override {
    if (!hosts.refusal().empty()) GTEST_SKIP() << hosts.refusal();
  }

  std::vector<std::string> job(const std::string& name, const std::vector<std::string>& overrides) const {
    return hosts.launch(2, scratch.path().string(), train(name, overrides));
  }
  // In the middle of its steps.
  std::vector<std::string> endless_job(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> all{"trainer.steps=1000000", "trainer.log_every=1"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return job("run", all);
  }
  int rank_process(int rank) const {
    const int process = process_of_rank(rank, (scratch / "run").string());
    EXPECT_GT(process, 0) << "rank " << rank << " was not found";
    return process;
  }

  Hosts hosts{2};
};

TEST_F(Multinode, TwoHostsOfTwoRanksGiveTheBitsOfOneProcess) {
  const std::vector<std::string> overrides{"trainer.steps=6", "data.validation=" + corpus,
                                           "trainer.validate_every=3"};
  const Finished alone = run(program(train("alone", overrides)));
  ASSERT_EQ(alone.exit_code, 0) << alone.out;
  const Finished over_hosts = run(job("hosts", overrides));
  ASSERT_EQ(over_hosts.exit_code, 0) << over_hosts.out;
  EXPECT_THAT(over_hosts.out, HasSubstr("h1 x 2, h2 x 2"));
  EXPECT_EQ(tensors("hosts"), tensors("alone"));
  EXPECT_EQ(metrics("hosts"), metrics("alone"));
}

// The tensor ranks of a host share its heads, the hosts the batch.
TEST_F(Multinode, TwoHostsThatEachShareTheHeadsGiveTheBitsOfTheSameMeshOnOneHost) {
  const std::vector<std::string> mesh{"trainer.steps=4", "model.state.heads=2", "parallel.tensor=2"};
  const Finished here = run(mpirun(4, train("here", mesh)));
  ASSERT_EQ(here.exit_code, 0) << here.out;
  const Finished over_hosts = run(job("hosts", mesh));
  ASSERT_EQ(over_hosts.exit_code, 0) << over_hosts.out;
  EXPECT_EQ(tensors("hosts"), tensors("here"));
  EXPECT_EQ(metrics("hosts"), metrics("here"));
  EXPECT_THAT(over_hosts.out, Not(HasSubstr("are on several hosts")));
}

TEST_F(Multinode, TensorRanksOnSeveralHostsAreWarnedAbout) {
  const Finished end =
      run(job("run", {"trainer.steps=1", "model.attention.heads=4", "model.attention.head_size=16",
                      "model.state.heads=4", "parallel.tensor=4"}));
  EXPECT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out,
              HasSubstr("parallel.tensor = 4: ranks 0 to 3, which share each layer, are on several hosts "
                        "(h1, h2)"));
}

// By the fast reduction, as three are no power of two; two ranks of each host share the heads.
TEST_F(Multinode, ThreeHostsLearnTheSameAsOneProcess) {
  const Hosts three{3};
  const std::vector<std::string> settings{"trainer.steps=4", "trainer.global_batch=12",
                                          "model.state.heads=2"};
  std::vector<std::string> mesh = settings;
  mesh.insert(mesh.end(), {"parallel.tensor=2", "parallel.reduction=fast"});
  ASSERT_EQ(run(program(train("alone", settings))).exit_code, 0);
  const Finished end = run(three.launch(2, scratch.path().string(), train("three", mesh)));
  ASSERT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, HasSubstr("h1 x 2, h2 x 2, h3 x 2"));
  const std::vector<double> ours = curve("three"), theirs = curve("alone");
  ASSERT_EQ(ours.size(), 8u);
  for (std::size_t i = 0; i < ours.size(); ++i) EXPECT_NEAR(ours[i], theirs.at(i), 1e-5 * theirs[i]) << i;
}

TEST_F(Multinode, ASignalToTheLauncherSavesAndStopsOnAllHosts) {
  Process launcher(endless_job());
  ASSERT_TRUE(launcher.wait_for("step 3/"));
  launcher.signal(SIGUSR1);
  const Finished end = launcher.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::stopped)) << end.out;
}

TEST_F(Multinode, AKilledRankEndsTheJobOnAllHosts) {
  Process launcher(endless_job());
  ASSERT_TRUE(launcher.wait_for("step 3/"));
  ASSERT_EQ(::kill(rank_process(3), SIGKILL), 0);
  const Finished end = launcher.wait();
  EXPECT_NE(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, ContainsRegex("rank [013] of 4 on h[12].* at step [0-9]+, "));
  for (int rank = 0; rank < 4; ++rank)
    EXPECT_EQ(process_of_rank(rank, (scratch / "run").string()), 0) << rank;
}

TEST_F(Multinode, AHostWhoseNetworkGoesDownEndsTheJob) {
  Process launcher(endless_job());
  ASSERT_TRUE(launcher.wait_for("step 3/"));
  hosts.cut("h2");
  const Finished end = launcher.wait();
  EXPECT_NE(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out,
              AllOf(HasSubstr("h2"), ContainsRegex("rank [01] of 4 on h1.* at step [0-9]+, .*; in ")));
}

TEST_F(Multinode, AHostThatIsLostEndsTheJobAlsoWhenTheWatchdogIsFaster) {
  Process launcher(endless_job({"trainer.stuck_after.collective=1"}));
  ASSERT_TRUE(launcher.wait_for("step 3/"));
  hosts.cut("h2");
  const Finished end = launcher.wait();
  EXPECT_NE(end.exit_code, 0) << end.out;
  EXPECT_NE(end.exit_code, 110) << "mpirun's --timeout had to end it:\n" << end.out;
  EXPECT_THAT(end.out, HasSubstr("no word from rank 2, 3 on h2"));
}

TEST_F(Multinode, AStoppedRankOfAnotherHostIsNamed) {
  Process launcher(endless_job({"trainer.stuck_after.collective=2"}));
  ASSERT_TRUE(launcher.wait_for("step 3/"));
  ASSERT_EQ(::kill(rank_process(3), SIGSTOP), 0);
  const Finished end = launcher.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, ContainsRegex("no word from rank 3 on h2"));
}

}  // namespace
}  // namespace wuneng::tests
