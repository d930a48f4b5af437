// `wuneng ablate` as a user runs it: small real ablations, killed, continued, failing, refused.
#include <gmock/gmock.h>
#include <signal.h>
#include <unistd.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"
#include "common/json.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Ablate : public TinyRun {
 protected:
  // The ablation of configs/tiny.yaml: two variants, three seeds, six steps.
  std::string file(const std::string& variants = "  a: {}\n  b: {model.fusion.mode: gated}\n",
                   const std::string& more = "seeds: [1, 2, 3]\n") const {
    const auto path = scratch / "a.yaml";
    write_file_atomically(
        path, "question: Which?\nbase: " + source("configs/tiny.yaml") +
                  "\noverrides: {trainer.validate_every: 3, trainer.checkpoint.every: 2}\nvariants:\n" +
                  variants + more + "budget: {steps: 6}\n");
    return path.string();
  }
  std::vector<std::string> ablate(const std::string& output,
                                  const std::vector<std::string>& more = {}) const {
    std::vector<std::string> command{"ablate",   file_,
                                     "--output", (scratch / output).string(),
                                     "--set",    "data.train=" + corpus,
                                     "--set",    "data.validation=" + corpus};
    command.insert(command.end(), more.begin(), more.end());
    return program(command);
  }
  // Results without what a clock decides: run, step -> losses.
  std::string results(const std::string& output) const {
    std::istringstream lines(read_text((scratch / output) / "results.jsonl"));
    std::string text;
    for (std::string line; std::getline(lines, line);) {
      const Json row = Json::parse(line);
      text += fmt::format("{} {} {} {} {}\n", row["run"].dump(), row["status"].dump(), row["step"].dump(),
                          row["validation_loss"].dump(), row["tokens"].dump());
    }
    return text;
  }
  std::string metrics_of(const std::string& output, const std::string& run) const {
    return metrics(output + "/runs/" + run + "/run");
  }
  static void expect_refused(const Finished& end, const std::vector<std::string>& parts) {
    EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::usage)) << end.out;
    for (const std::string& part : parts) EXPECT_THAT(end.out, HasSubstr(part));
  }

  std::string file_ = file();
};

// The whole way once: runs, files, numbers. Two at a time give the same bits as one after the other.
TEST_F(Ablate, RunsEveryVariantWithEverySeedAndReports) {
  const Finished alone = run(ablate("alone"));
  ASSERT_EQ(alone.exit_code, 0) << alone.out;
  EXPECT_THAT(alone.out, AllOf(HasSubstr("a-seed1: started"), HasSubstr("b-seed3: done in"),
                               HasSubstr("(6 of 6)"), HasSubstr("6 of 6 runs finished")));
  const auto out = scratch / "alone";
  double sum = 0.0;
  std::size_t rows = 0;
  std::istringstream lines(read_text(out / "results.jsonl"));
  for (std::string line; std::getline(lines, line); ++rows) {
    const Json row = Json::parse(line);
    if (row["variant"] == "b" && row["step"] == 6) sum += row["validation_loss"].get<double>();
    if (row["variant"] == "a" && row["step"] == 6) sum -= row["validation_loss"].get<double>();
    EXPECT_GT(row["peak_bytes"].get<std::int64_t>(), 50'000'000);
  }
  EXPECT_EQ(rows, 12u);  // two evaluations of each
  EXPECT_THAT(read_text(out / "report.md"), HasSubstr(fmt::format("{:+.4f} (", sum / 3.0)));
  EXPECT_THAT(read_text(out / "report.html"), HasSubstr("</html>"));

  if (::sysconf(_SC_NPROCESSORS_ONLN) < 2) return;
  const Finished beside = run(ablate("beside", {"--jobs", "2"}));
  ASSERT_EQ(beside.exit_code, 0) << beside.out;
  EXPECT_EQ(results("beside"), results("alone"));

  // Everything is done: the same command makes no run again, and the report can be had alone.
  std::filesystem::remove(out / "report.md");
  const Finished again = run(ablate("alone"));
  EXPECT_EQ(again.exit_code, 0);
  EXPECT_THAT(again.out, AllOf(HasSubstr("6 runs, 6 of them finished before"), Not(HasSubstr("started"))));
  std::filesystem::remove(out / "report.md");
  EXPECT_EQ(run(ablate("alone", {"--report"})).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(out / "report.md"));

  // More seeds join; other settings are another ablation.
  const Finished other = run(ablate("alone", {"--set", "optimizer.lr=1.0e-2"}));
  expect_refused(other, {"holds another ablation", "optimizer.lr"});
  expect_refused(run(ablate("alone", {"--seeds", "1,2"})), {"holds another ablation", "-seed3"});
  expect_refused(run(ablate("alone", {"--budget", "steps=7"})),
                 {"holds another ablation", "trainer.steps: 6 -> 7"});
  EXPECT_THAT(run(ablate("alone", {"--report", "--seeds", "1,2,3,4"})).out, HasSubstr("report.html"));
  EXPECT_THAT(read_text(out / "report.md"), HasSubstr("6 of 8 runs finished"));
}

TEST_F(Ablate, KilledInTheMiddleItEndsWithTheResultsOfOneThatWasNot) {
  file_ = file("  a: {}\n  b: {model.fusion.mode: gated}\n", "seeds: [1, 2]\n");
  const std::vector<std::string> more{"--budget", "steps=10"};
  ASSERT_EQ(run(ablate("whole", more)).exit_code, 0);
  {
    Process killed(ablate("cut", more));
    ASSERT_TRUE(killed.wait_for("b-seed1: started"));
    // In the middle of a run: when some of its steps are in its metrics.
    const auto file = (scratch / "cut") / "runs" / "b-seed1" / "run" / "metrics.jsonl";
    while (!std::filesystem::exists(file) || std::filesystem::file_size(file) < 600) ::usleep(1000);
    killed.signal(SIGKILL);
    killed.wait();
  }
  // What it had begun to write may be cut anywhere.
  std::ofstream((scratch / "cut") / "results.jsonl") << "{\"run\":\"a-se";
  const Finished end = run(ablate("cut", more));
  ASSERT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("4 runs, 1 of them finished before"),
                             Not(HasSubstr("a-seed1: started")), HasSubstr("4 of 4 runs finished")));
  EXPECT_EQ(results("cut"), results("whole"));
  for (const char* name : {"a-seed1", "b-seed1", "a-seed2", "b-seed2"})
    EXPECT_EQ(metrics_of("cut", name), metrics_of("whole", name)) << name;
  EXPECT_EQ(tensors("cut/runs/b-seed1/run"), tensors("whole/runs/b-seed1/run"));
}

TEST_F(Ablate, ASignalSavesAllRunsAndTheSameCommandGoesOn) {
  file_ = file("  a: {}\n  b: {model.fusion.mode: gated}\n", "seeds: [1]\n");
  const std::vector<std::string> more{"--budget", "steps=100000"};
  {
    Process stopped(ablate("out", more));
    ASSERT_TRUE(stopped.wait_for("a-seed1: started"));
    const auto file = (scratch / "out") / "runs" / "a-seed1" / "run" / "metrics.jsonl";
    while (!std::filesystem::exists(file) || std::filesystem::file_size(file) < 600) ::usleep(1000);
    stopped.signal(SIGTERM);
    const Finished end = stopped.wait();
    EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::stopped)) << end.out;
    EXPECT_THAT(end.out, AllOf(HasSubstr("a-seed1: stopped after saving"), Not(HasSubstr("b-seed1: started")),
                               HasSubstr("0 of 2 runs finished")));
  }
  EXPECT_THAT(read_text((scratch / "out") / "report.md"), HasSubstr("| a-seed1 | unfinished |"));
  Process again(ablate("out", more));
  ASSERT_TRUE(again.wait_for("a-seed1: started"));
  const auto output = (scratch / "out") / "runs" / "a-seed1" / "output.txt";
  while (read_text(output).find("resuming from") == std::string::npos) ::usleep(1000);
}

TEST_F(Ablate, AFailingVariantStopsNoOther) {
  file_ = file("  a: {}\n  bad: {optimizer.lr: 1.0e+30}\n  b: {model.fusion.mode: gated}\n", "seeds: [1]\n");
  const Finished end = run(ablate("out"));
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::failed)) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("bad-seed1: failed: step"), HasSubstr("b-seed1: done"),
                             HasSubstr("2 of 3 runs finished"), HasSubstr("the run has diverged")));
  EXPECT_THAT(read_text((scratch / "out") / "report.md"),
              AllOf(HasSubstr("| bad-seed1 | failed |"), HasSubstr("the run has diverged"),
                    HasSubstr("2 of 3 runs finished")));
  // A launcher that is not there fails every run, and says so.
  const Finished none = run(ablate("none", {"--launch", "no-such-launcher -n 2"}));
  EXPECT_EQ(none.exit_code, static_cast<int>(ExitCode::failed));
  EXPECT_THAT(none.out, AllOf(HasSubstr("no-such-launcher"), HasSubstr("No such file")));
}

TEST_F(Ablate, ALaunchTemplateStartsEachRunOnSeveralRanks) {
  file_ = file("  a: {}\n  b: {model.fusion.mode: gated}\n", "seeds: [1]\n");
  ASSERT_EQ(run(ablate("alone")).exit_code, 0);
  const Finished two = run(ablate("two", {"--launch", "mpirun -n 2"}));
  ASSERT_EQ(two.exit_code, 0) << two.out;
  EXPECT_EQ(results("two"), results("alone"));
  EXPECT_THAT(read_text((scratch / "two") / "runs" / "a-seed1" / "output.txt"), HasSubstr("2 process(es)"));
}

TEST_F(Ablate, ADryRunListsRunsAndWritesNothing) {
  const Finished shown = run(program({"ablate", file_, "--dry-run", "--output", (scratch / "out").string()}));
  EXPECT_EQ(shown.exit_code, 0) << shown.out;
  EXPECT_THAT(shown.out, AllOf(HasSubstr("6 runs: 2 variants x 3 seeds"), HasSubstr("reference"),
                               HasSubstr("time: about"), HasSubstr("GFLOP/s")));
  EXPECT_FALSE(std::filesystem::exists(scratch / "out"));
}

TEST_F(Ablate, ASlurmArrayMakesTheSameRuns) {
  file_ = file("  a: {}\n  b: {model.fusion.mode: gated}\n", "seeds: [1]\n");
  ASSERT_EQ(run(ablate("alone")).exit_code, 0);
  const Finished written = run(ablate("out", {"--emit", "slurm", "--launch", "env"}));
  ASSERT_EQ(written.exit_code, 0) << written.out;
  const auto script = (scratch / "out") / "slurm.sbatch";
  EXPECT_THAT(read_text(script), AllOf(HasSubstr("#SBATCH --array=0-1%1"), HasSubstr("#SBATCH --requeue")));
  for (const char* task : {"0", "1"}) {
    const Finished done = run(
        {"env", "SLURM_ARRAY_JOB_ID=5", std::string("SLURM_ARRAY_TASK_ID=") + task, "bash", script.string()});
    EXPECT_EQ(done.exit_code, 0) << done.out;
  }
  EXPECT_EQ(run(ablate("out", {"--report"})).exit_code, 0);
  EXPECT_EQ(results("out"), results("alone"));
}

TEST_F(Ablate, BadInputIsRefusedBeforeAnythingIsWritten) {
  const std::string out = (scratch / "out").string();
  expect_refused(run(program({"ablate", file_, "--output", out})), {"data.train: is not set"});
  expect_refused(run(program({"ablate", file_, "--output", out, "--set", "data.train=" + corpus})),
                 {"data.validation: is not set", "validation_loss"});
  expect_refused(run(program({"ablate", file_, "--output", out, "--set", "data.train=" + corpus + "x"})),
                 {"corpusx.bin"});
  expect_refused(run(program({"ablate", file_})), {"--output DIR"});
  expect_refused(run(ablate("out", {"--jobs", "4096"})), {"--jobs 4096"});
  expect_refused(run(ablate("out", {"--set", "model.widht=3"})), {"did you mean model.width?"});
  EXPECT_FALSE(std::filesystem::exists(out));
  std::filesystem::create_directories(scratch / "other");
  write_file_atomically((scratch / "other") / "notes.txt", "mine");
  expect_refused(run(ablate("other")), {"neither empty nor that of an ablation"});
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch / "other"), {}), 1);
}

}  // namespace
}  // namespace wuneng::tests
