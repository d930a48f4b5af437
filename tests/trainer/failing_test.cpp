// Ranks that fail in each of the ways in which ranks fail: the job ends on all of them, not with success, and
// says which rank, where it was and why. Nothing here waits for a time but the watchdog's own limits.
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <fstream>

#include "common/check.h"
#include "common/file.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

class Failing : public TinyRun {
 protected:
  // The same started with a limit (exit code 110) in place of a hanging test.
  static std::vector<std::string> bounded(std::vector<std::string> command) {
    command.insert(command.begin() + 1, {"--timeout", "120"});
    return command;
  }

  // A job of 2 ranks, in the middle of its steps.
  std::vector<std::string> job(const std::vector<std::string>& overrides = {}) const {
    std::vector<std::string> all{"trainer.steps=1000000", "trainer.log_every=1"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return bounded(mpirun(2, train("run", all)));
  }

  int rank_process(int rank) const {
    const int process = process_of_rank(rank, (scratch / "run").string());
    EXPECT_GT(process, 0) << "rank " << rank << " was not found";
    return process;
  }

  // tests/support/failing_rank.cpp, whose rank `rank` fails before step 3.
  Finished run_failing(const std::string& how, const std::string& rank,
                       const std::vector<std::string>& overrides = {}, bool alone = false) const {
    std::vector<std::string> command{
        std::getenv("WUNENG_FAILING_RANK"), how,   rank, "3", source("configs/tiny.yaml"),
        (scratch / "run").string(),         corpus};
    command.insert(command.end(), overrides.begin(), overrides.end());
    const std::vector<std::string> start =
        alone ? std::vector<std::string>{"timeout", "120"}
              : std::vector<std::string>{"mpirun", "--timeout", "120", "-n", "2"};
    command.insert(command.begin(), start.begin(), start.end());
    return run(command);
  }
};

// ---- errors ----
// Before a step a rank was last in a collective, or still is in one: parameters are gathered meanwhile.

TEST_F(Failing, AnExceptionNamesRankHostPlaceReasonAndTheLastCollective) {
  const Finished end = run_failing("throw", "1");
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out,
              ContainsRegex("rank 1 of 2 on [^ ]+, step 3, before the step: the test's fault; (last )?in "
                            "all_gather.* among 2 ranks \\(call [0-9]+\\)"));
}

TEST_F(Failing, DataThatOneRankCannotReadIsAnErrorThatAllAgreeOn) {
  // Each rank has its own copy of the corpus; one of them goes bad while the job runs.
  for (const char* rank : {"0", "1"}) {
    std::filesystem::create_directory(scratch / rank);
    for (const char* ending : {".bin", ".idx"})
      std::filesystem::copy_file(corpus + ending, scratch / rank / (std::string("corpus") + ending));
  }
  std::vector<std::string> command{"mpirun", "--timeout", "120"};
  for (const char* rank : {"0", "1"}) {
    if (*rank == '1') command.push_back(":");
    command.insert(command.end(), {"-n", "1", "--wdir", (scratch / rank).string()});
    std::vector<std::string> arguments =
        program(train("run", {"trainer.steps=1000000", "trainer.log_every=1", "data.train=corpus"}));
    command.insert(command.end(), arguments.begin(), arguments.end());
  }
  Process job(command);
  ASSERT_TRUE(job.wait_for("step 3/"));
  const auto bytes = std::filesystem::file_size(scratch / "1" / "corpus.bin");
  std::fstream(scratch / "1" / "corpus.bin", std::ios::in | std::ios::out | std::ios::binary)
      << std::string(bytes, '\x77');
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, AllOf(ContainsRegex("error: rank 1 on [^ ]+: .*corpus.bin.*\\(step [0-9]+, data\\)"),
                             Not(HasSubstr("MPI_ABORT"))));
}

TEST_F(Failing, ADiskThatIsFullUnderTheMetricsIsAnErrorThatAllAgreeOn) {
  std::vector<std::string> command = job();
  const auto program = std::find(command.begin(), command.end(), std::getenv("WUNENG"));
  command.insert(program, {"sh", "-c", "trap '' XFSZ; exec \"$0\" \"$@\""});
  Process job(command);
  ASSERT_TRUE(job.wait_for("step 3/"));
  const rlimit full{1, 1};  // no file may grow beyond one byte
  ASSERT_EQ(::prlimit(rank_process(0), RLIMIT_FSIZE, &full, nullptr), 0);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, AllOf(ContainsRegex("error: rank 0 on [^ ]+: .*run.*\\(step [0-9]+, metrics\\)"),
                             Not(HasSubstr("MPI_ABORT"))));
}

// ---- crashes ----

TEST_F(Failing, ACrashNamesRankHostPlaceTheLastCollectiveAndTheStack) {
  const Finished end = run_failing("crash", "1");
  EXPECT_EQ(end.exit_code, 128 + SIGSEGV) << end.out;
  EXPECT_THAT(end.out,
              AllOf(ContainsRegex("rank 1 of 2 on [^ ]+, step 3, before the step: killed by SIGSEGV.*; "
                                  "(last )?in all_gather"),
                    HasSubstr("crash_here"), HasSubstr("wuneng::trainer::train(")));
}

TEST_F(Failing, AKilledRankEndsTheJobAndTheOthersSayWhereTheyWere) {
  Process job(this->job());
  ASSERT_TRUE(job.wait_for("step 3/"));
  ASSERT_EQ(::kill(rank_process(1), SIGKILL), 0);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, 128 + SIGKILL) << end.out;
  EXPECT_THAT(end.out,
              AllOf(ContainsRegex("process rank 1 .*signal 9"),
                    ContainsRegex("rank 0 of 2 on [^ ]+: told to end .*, at step [0-9]+, .*; in [a-z_]+ ")));
}

// ---- ranks that make no progress ----

TEST_F(Failing, AStoppedRankIsNamedByTheOthers) {
  for (const int stopped : {0, 1}) {
    std::filesystem::remove_all(scratch / "run");
    Process job(this->job({"trainer.stuck_after.collective=1"}));
    ASSERT_TRUE(job.wait_for("step 3/"));
    ASSERT_EQ(::kill(rank_process(stopped), SIGSTOP), 0);
    const Finished end = job.wait();
    EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
    const std::string other = std::to_string(1 - stopped);
    EXPECT_THAT(end.out,
                AllOf(ContainsRegex("rank " + other +
                                    " of 2 on [^ ]+: no progress for 1 s \\(trainer.stuck_"
                                    "after.collective\\), at step [0-9]+, .*; in [a-z_]+ .* for [0-9.]+ s"),
                      ContainsRegex("no word from rank " + std::to_string(stopped) + " on "),
                      HasSubstr("stack of the main thread of rank " + other)));
  }
}

TEST_F(Failing, ARankThatTheOthersWaitForShowsItsStack) {
  const Finished end = run_failing("hang", "1", {"trainer.stuck_after.collective=1"});
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(
      end.out,
      AllOf(ContainsRegex("rank 1 of 2 on [^ ]+: other ranks wait for this one, at step 3, before the step"),
            HasSubstr("hang_for_ever"), ContainsRegex("wuneng: rank 1: at step 3, before the step"),
            ContainsRegex("wuneng: rank 0: at step 3, data; in all_gather_text")));
}

TEST_F(Failing, ARankWhoseCommunicationThreadWaitsShowsThatStackToo) {
  const Finished end = run_failing("desert", "1", {"trainer.stuck_after.collective=1"});
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out,
              AllOf(ContainsRegex("rank 0 of 2 on [^ ]+: no progress for 1 s .*; in all_gather of 8 bytes"),
                    HasSubstr("wait_in_vain"), ContainsRegex("stack of its communication thread:\n  #0 "),
                    HasSubstr("Background::run")));
}

TEST_F(Failing, EvaluationThatHangsEndsByTheLimitsOfItsRun) {
  const std::vector<std::string> limits{"trainer.steps=1", "trainer.stuck_after.validation=1"};
  ASSERT_EQ(run(program(train("run", limits))).exit_code, 0);
  const std::string ids = (scratch / "ids").string(), pipe = (scratch / "logits").string();
  write_file_atomically(ids, "1 2 3");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);  // that nobody reads from
  std::vector<std::string> command =
      program({"evaluate", (scratch / "run").string(), "--tokens", ids, "--logits", pipe});
  command.insert(command.begin(), {"timeout", "120"});
  const Finished end = run(command);
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("no progress for 1 s (trainer.stuck_after.validation)"),
                             HasSubstr("stack of the main thread of rank 0")));
}

TEST_F(Failing, ARankThatHangsInItsOwnWorkEndsTheJob) {
  const Finished end = run_failing("hang", "1", {"trainer.stuck_after.compute=1"});
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(
      end.out,
      AllOf(ContainsRegex("rank 1 of 2 on [^ ]+: no progress for 1 s \\(trainer.stuck_after.compute\\), "
                          "at step 3, before the step; last in "),
            HasSubstr("hang_for_ever")));
}

TEST_F(Failing, ASingleProcessThatHangsEnds) {
  const Finished end = run_failing("hang", "0", {"trainer.stuck_after.compute=1"}, /*alone=*/true);
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("no progress for 1 s"), HasSubstr("hang_for_ever")));
}

// ---- the start ----

TEST_F(Failing, ARankThatNeverStartsEndsTheJob) {
  std::vector<std::string> command{"mpirun", "--timeout", "120", "-x", "WUNENG_START_LIMIT=1", "-n", "1"};
  const std::vector<std::string> ours = program(train("run"));
  command.insert(command.end(), ours.begin(), ours.end());
  command.insert(command.end(), {":", "-n", "1", "tail", "-f", "/dev/null"});
  const Finished end = run(command);
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, ContainsRegex("rank 0 on [^ ]+: the ranks have not reached each other within 1 s"));
}

TEST_F(Failing, ProcessesThatEachTakeThemselvesForTheOnlyOneAreToldOff) {
  // What srun without PMIx does.
  std::vector<std::string> command = program(train("run"));
  command.insert(command.begin(), {"env", "SLURM_STEP_NUM_TASKS=4"});
  const Finished end = run(command);
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::usage)) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("started 4 processes, but MPI sees 1"), HasSubstr("srun --mpi=pmix")));
}

}  // namespace
}  // namespace wuneng::tests
