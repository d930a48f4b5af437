// scripts/launch: mpirun.sh on this machine, and slurm.sbatch with stand-ins for Slurm's own programs.
#include <gmock/gmock.h>
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "common/check.h"
#include "common/file.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Launch : public TinyRun {
 protected:
  std::vector<std::string> mpirun_sh(const std::string& hosts,
                                     const std::vector<std::string>& arguments) const {
    write_file_atomically(scratch / "hosts", hosts);
    std::vector<std::string> command{source("scripts/launch/mpirun.sh"), (scratch / "hosts").string()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return command;
  }

  // slurm.sbatch as Slurm would start it. srun becomes mpirun; what scontrol is told is kept in a file.
  std::vector<std::string> sbatch(const std::vector<std::string>& arguments) const {
    stand_in("srun", "printf '%s\\n' \"$@\" >" + (scratch / "srun.txt").string() +
                         "\nwhile [[ $1 == --* ]]; do shift; done\nexec mpirun --timeout 120 -n 2 \"$@\"\n");
    stand_in("scontrol", "echo \"$@\" >" + (scratch / "scontrol.txt").string() + "\n");
    std::vector<std::string> command{"env", "PATH=" + scratch.path().string() + ":" + std::getenv("PATH"),
                                     "SLURM_JOB_ID=77", "bash", source("scripts/launch/slurm.sbatch")};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return command;
  }
  bool queued_again() const { return std::filesystem::exists(scratch / "scontrol.txt"); }

 private:
  void stand_in(const std::string& name, const std::string& text) const {
    write_file_atomically(scratch / name, "#!/usr/bin/env bash\n" + text);
    std::filesystem::permissions(scratch / name, std::filesystem::perms::owner_all);
  }
};

TEST_F(Launch, MpirunTrainsOnTheHostsOfAFile) {
  const Finished end =
      run(mpirun_sh("# two processes here\nlocalhost slots=2\n", train("run", {"trainer.steps=2"})));
  EXPECT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, HasSubstr("2 process(es)"));
}

TEST_F(Launch, MpirunSaysWhatIsMissing) {
  const Finished none = run({source("scripts/launch/mpirun.sh"), (scratch / "none").string(), "train"});
  EXPECT_EQ(none.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(none.out, AllOf(HasSubstr("none"), HasSubstr("slots=8")));
  const Finished empty = run(mpirun_sh("# nobody\n\n", {"train"}));
  EXPECT_EQ(empty.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(empty.out, HasSubstr("names no host"));
  const Finished help = run({source("scripts/launch/mpirun.sh"), "--help"});
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.out, AllOf(HasSubstr("HOSTFILE"), HasSubstr("USR1"), Not(HasSubstr("set -e"))));
}

TEST_F(Launch, ASlurmJobWhoseTimeIsUpSavesAndIsQueuedAgain) {
  Process job(sbatch(train("run", {"trainer.steps=1000000", "trainer.log_every=1"})));
  ASSERT_TRUE(job.wait_for("step 3/"));
  job.signal(SIGUSR1);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, 0) << end.out;
  EXPECT_EQ(read_text(scratch / "scontrol.txt"), "requeue 77\n") << end.out;
  EXPECT_THAT(read_text(scratch / "srun.txt"), HasSubstr("--mpi=pmix\n"));
  EXPECT_THAT(tensors("run"), HasSubstr("head.weight"));
}

TEST_F(Launch, ASlurmJobThatEndsOrFailsIsNotQueuedAgain) {
  const Finished done = run(sbatch(train("run", {"trainer.steps=2"})));
  EXPECT_EQ(done.exit_code, 0) << done.out;
  EXPECT_FALSE(queued_again());
  const Finished wrong = run(sbatch(train("run", {"trainer.stepz=2"})));
  EXPECT_EQ(wrong.exit_code, static_cast<int>(ExitCode::usage)) << wrong.out;
  EXPECT_FALSE(queued_again());
}

TEST_F(Launch, ShellScriptsAreCleanForShellcheck) {
  if (run({"shellcheck", "--version"}).exit_code != 0) GTEST_SKIP() << "shellcheck is not installed";
  std::vector<std::string> command{"shellcheck", "--external-sources"};
  for (const char* folder : {"scripts", "tests"})
    for (const auto& entry : std::filesystem::recursive_directory_iterator(source(folder)))
      if (entry.path().extension() == ".sh" || entry.path().extension() == ".sbatch")
        command.push_back(entry.path().string());
  ASSERT_GT(command.size(), 8u);
  const Finished end = run(command);
  EXPECT_EQ(end.exit_code, 0) << end.out;
}

}  // namespace
}  // namespace wuneng::tests
