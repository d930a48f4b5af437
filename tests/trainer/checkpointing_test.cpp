// Whole runs: when checkpoints are made, what goes wrong with them, and what they are good for.
#include <gmock/gmock.h>
#include <signal.h>

#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "common/check.h"
#include "common/file.h"
#include "common/json.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Checkpointing : public TinyRun {
 protected:
  void done(const Finished& finished) { ASSERT_EQ(finished.exit_code, 0) << finished.out; }
  fs::path checkpoint(const std::string& name, int step) const {
    return scratch / name / "checkpoints" / fmt::format("step-{:08}", step);
  }
  // A file where the folder of a checkpoint would be.
  void put_in_the_way(int step) { write_file_atomically(checkpoint("run", step), "in the way"); }
  static void flip_a_byte(const fs::path& file, std::int64_t from_the_end) {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekg(-from_the_end, std::ios::end);
    const char byte = static_cast<char>(stream.get() ^ 1);
    stream.seekp(-from_the_end, std::ios::end);
    stream.put(byte);
  }
  // The mean loss over the corpus.
  double loss(const std::string& name) {
    const Finished end = run(program({"evaluate", (scratch / name).string(), "--data", corpus, "--json"}));
    EXPECT_EQ(end.exit_code, 0) << end.out;
    return Json::parse(end.out)["loss"].get<double>();
  }
};

// ---- meshes ----

TEST_F(Checkpointing, ARunThatChangesItsMeshAtEveryStopStaysOnItsCurve) {
  const std::vector<std::string> settings{
      "model.attention.heads=4", "model.attention.kv_heads=2", "model.attention.head_size=16",
      "model.state.heads=4",     "model.middle.mode=mixed",    "model.middle.heads=12",
      "trainer.steps=7"};
  done(run(program(train("straight", settings))));
  int stop = 0;
  for (const auto& [data, tensor] : {std::pair(1, 1), {1, 4}, {4, 1}, {2, 2}, {1, 2}, {2, 1}, {1, 1}}) {
    std::vector<std::string> partly = settings;
    partly.push_back(fmt::format("parallel.data={}", data));
    partly.push_back(fmt::format("parallel.tensor={}", tensor));
    partly.insert(partly.end(), {"trainer.checkpoint.every=1", "trainer.checkpoint.keep=0"});
    ++stop;
    const int ranks = data * tensor;
    done(run(ranks == 1 ? program(train("changing", partly)) : mpirun(ranks, train("changing", partly))));
    // As if it had ended here.
    for (int step = stop + 1; step <= 7; ++step) fs::remove_all(checkpoint("changing", step));
    ASSERT_TRUE(fs::exists(checkpoint("changing", stop) / "manifest.json")) << stop;
  }
  std::istringstream ours(metrics("changing")), theirs(metrics("straight"));
  int lines = 0;
  for (std::string a, b; std::getline(ours, a) && std::getline(theirs, b); ++lines) {
    const Json x = Json::parse(a), y = Json::parse(b);
    for (const char* key : {"loss", "grad_norm"})
      EXPECT_NEAR(x[key].get<double>(), y[key].get<double>(), 1e-5 * y[key].get<double>()) << x["step"];
  }
  EXPECT_EQ(lines, 7);
}

// ---- saves that fail ----

TEST_F(Checkpointing, ASaveThatFailsEndsTheRunOnAllRanksAndLosesNothing) {
  const std::vector<std::string> settings{"trainer.steps=12", "trainer.checkpoint.every=4",
                                          "trainer.checkpoint.keep=0", "optimizer.schedule=constant"};
  done(run(program(train("straight", settings))));
  done(run(program(train("run", {"trainer.steps=4", "optimizer.schedule=constant"}))));
  put_in_the_way(8);
  const Finished end = run(mpirun(2, train("run", settings)));
  EXPECT_EQ(end.exit_code, 1);
  EXPECT_THAT(end.out, AllOf(HasSubstr("the checkpoint of step 8 could not be written: rank 0: "),
                             HasSubstr("step-00000008"), HasSubstr("earlier ones are valid")));
  fs::remove(checkpoint("run", 8));
  done(run(mpirun(2, train("run", settings))));
  EXPECT_EQ(tensors("run"), tensors("straight"));
}

TEST_F(Checkpointing, ASaveThatFailsIsSaidAndTheRunGoesOnWhereThatIsWanted) {
  done(run(program(train("run", {"trainer.steps=4", "trainer.checkpoint.every=4"}))));
  put_in_the_way(8);
  const Finished end =
      run(mpirun(2, train("run", {"trainer.steps=12", "trainer.checkpoint.every=4",
                                  "trainer.checkpoint.keep=0", "trainer.checkpoint.on_failure=go_on"})));
  EXPECT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("the checkpoint of step 8 could not be written"),
                             HasSubstr("training goes on (trainer.checkpoint.on_failure)")));
  EXPECT_TRUE(fs::exists(checkpoint("run", 12) / "manifest.json"));

  // Without its last checkpoint a run is not done.
  put_in_the_way(16);
  const Finished last =
      run(mpirun(2, train("run", {"trainer.steps=16", "trainer.checkpoint.on_failure=go_on"})));
  EXPECT_EQ(last.exit_code, 1) << last.out;
  EXPECT_THAT(last.out, HasSubstr("the checkpoint of step 16 could not be written"));
}

TEST_F(Checkpointing, AFirstStartThatWasCutShortIsMadeAgain) {
  fs::create_directories(scratch / "run");
  write_file_atomically(scratch / "run" / "config.yaml.partial", "seed:");
  write_file_atomically(scratch / "run" / "lock", "");
  done(run(program(train("run", {"trainer.steps=1"}))));
}

// ---- damaged ones ----

TEST_F(Checkpointing, ADamagedCheckpointIsRefusedOrLeftBehindAsTheConfigurationSays) {
  const std::vector<std::string> settings{"trainer.steps=9", "trainer.checkpoint.every=3",
                                          "trainer.checkpoint.keep=0"};
  done(run(program(train("run", settings))));
  const std::string straight = tensors("run");
  flip_a_byte(checkpoint("run", 9) / "optimizer.safetensors", 100);
  std::vector<std::string> longer = settings;
  const Finished refused = run(mpirun(2, train("run", longer)));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.out, AllOf(HasSubstr("optimizer.safetensors: tensor "), HasSubstr("was changed"),
                                 HasSubstr("trainer.checkpoint.fall_back")));
  longer.push_back("trainer.checkpoint.fall_back=true");
  const Finished back = run(mpirun(2, train("run", longer)));
  EXPECT_EQ(back.exit_code, 0) << back.out;
  EXPECT_THAT(back.out, AllOf(HasSubstr("falling back to the checkpoint before it"),
                              HasSubstr("resuming from " + checkpoint("run", 6).string())));
  EXPECT_EQ(tensors("run"), straight);
  for (const int step : {3, 6, 9}) flip_a_byte(checkpoint("run", step) / "manifest.json", 50);
  const Finished none = run(program(train("run", longer)));
  EXPECT_EQ(none.exit_code, 1);
  EXPECT_THAT(none.out, HasSubstr("none of the checkpoints in "));
}

// ---- when ----

TEST_F(Checkpointing, TermToAnyRankSavesAndStopsAll) {
  Process job(mpirun(2, train("run", {"trainer.steps=100000", "trainer.log_every=1"})));
  ASSERT_TRUE(job.wait_for("step 3/"));
  ASSERT_EQ(::kill(process_of_rank(1, (scratch / "run").string()), SIGTERM), 0);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::stopped)) << end.out;
  EXPECT_THAT(tensors("run"), HasSubstr("head.weight"));
}

TEST_F(Checkpointing, ARunThatCannotSaveWithinItsGraceEnds) {
  Process job({std::getenv("WUNENG_FAILING_RANK"), "hang", "0", "3", source("configs/tiny.yaml"),
               (scratch / "run").string(), corpus, "trainer.grace=1"});
  ASSERT_TRUE(job.wait_for("hanging"));
  job.signal(SIGTERM);
  const Finished end = job.wait();
  EXPECT_EQ(end.exit_code, 1) << end.out;
  EXPECT_THAT(end.out, HasSubstr("trainer.grace of 1 s was too short"));
}

TEST_F(Checkpointing, ARunEndsBeforeItsTimeLimitAndGoesOn) {
  const Finished end = run(mpirun(2, train("run", {"trainer.steps=100000", "trainer.time_limit=2"})));
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::stopped)) << end.out;
  EXPECT_THAT(end.out, HasSubstr("stopped before trainer.time_limit after step "));
  EXPECT_THAT(tensors("run"), HasSubstr("head.weight"));
}

TEST_F(Checkpointing, TheBestByValidationIsKept) {
  done(run(program(train("run", {"trainer.steps=8", "trainer.checkpoint.every=2", "trainer.checkpoint.keep=1",
                                 "trainer.checkpoint.keep_best=1", "trainer.checkpoint.keep_every=4",
                                 "data.validation=" + corpus, "trainer.validate_every=2",
                                 "optimizer.lr=0.5"}))));  // so high that later steps do harm
  std::map<double, int> steps;
  std::istringstream lines(metrics("run"));
  for (std::string text; std::getline(lines, text);)
    if (const Json line = Json::parse(text); line.contains("validation_loss"))
      steps[line["validation_loss"].get<double>()] = line["step"].get<int>();
  std::set<int> expected{4, 8, steps.begin()->second}, found;
  ASSERT_EQ(steps.size(), 4u);
  for (int step = 2; step <= 8; step += 2)
    if (fs::exists(checkpoint("run", step))) found.insert(step);
  EXPECT_EQ(found, expected);
}

// ---- one job at a time ----

TEST_F(Checkpointing, TwoJobsCannotTrainInOneFolder) {
  Process first(mpirun(2, train("run", {"trainer.steps=100000", "trainer.log_every=1"})));
  ASSERT_TRUE(first.wait_for("step 1/"));
  const Finished second = run(program(train("run", {"trainer.steps=100000"})));
  EXPECT_EQ(second.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(second.out, HasSubstr("another job trains in this folder (process "));
  first.signal(SIGUSR1);
  EXPECT_EQ(first.wait().exit_code, static_cast<int>(ExitCode::stopped));
}

// ---- warm starts ----

const std::vector<std::string> transformer{"model.state.heads=0", "model.attention.heads=4",
                                           "model.attention.head_size=16"};
// What it grows into; its attention heads stay as they are.
const std::vector<std::string> grown{"model.state.heads=2",          "model.attention.heads=4",
                                     "model.attention.head_size=16", "model.fusion.attention_norm=false",
                                     "model.middle.mode=mixed",      "model.middle.heads=6"};

TEST_F(Checkpointing, ATransformerGrowsIntoAWuNengThatComputesTheSame) {
  std::vector<std::string> settings = transformer;
  settings.push_back("trainer.steps=10");
  done(run(program(train("small", settings))));
  settings = grown;
  settings.insert(settings.end(),
                  {"trainer.init.from=" + (scratch / "small").string(), "optimizer.lr=0", "trainer.steps=1"});
  const Finished refused = run(program(train("large", settings)));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.out, AllOf(HasSubstr("it lacks tensors of the model: "), HasSubstr("layers.0."),
                                 HasSubstr("trainer.init.fresh")));
  settings.push_back("trainer.init.fresh=*.state.*, *.fusion.*, *.middle.*");
  const Finished end = run(mpirun(2, train("large", settings)));
  ASSERT_EQ(end.exit_code, 0) << end.out;
  EXPECT_THAT(end.out, AllOf(HasSubstr("beginning with "), HasSubstr(" fresh: ")));
  EXPECT_NEAR(loss("large"), loss("small"), 1e-6);

  // It goes on from its own checkpoint, wherever the other model has gone.
  fs::remove_all(scratch / "small");
  settings.push_back("trainer.steps=3");
  const Finished longer = run(program(train("large", settings)));
  EXPECT_EQ(longer.exit_code, 0) << longer.out;
  EXPECT_THAT(longer.out, AllOf(HasSubstr("resuming from "), Not(HasSubstr("beginning with "))));
}

TEST_F(Checkpointing, AModelKeepsItsTokenizerWhereTheCorpusHasNone) {
  done(run(program(train("first", {"trainer.steps=2"}))));
  fs::remove(corpus + ".tokenizer.json");
  const std::string first = (scratch / "first").string();
  for (const std::string steps : {"2", "4"}) {  // from another model, then from its own checkpoint
    done(run(program(train("second", {"trainer.init.from=" + first, "trainer.steps=" + steps}))));
    EXPECT_TRUE(
        fs::exists((scratch / "second") / "checkpoints" / ("step-0000000" + steps) / "tokenizer.json"));
  }
}

TEST_F(Checkpointing, ARunBeginsWithAnExportedModelAndAFreshOptimizer) {
  done(run(program(train("first", {"trainer.steps=10"}))));
  const std::string exported = (scratch / "first.safetensors").string();
  done(run(program({"export", (scratch / "first").string(), exported})));
  done(run(program(train("second", {"trainer.init.from=" + exported, "trainer.steps=2"}))));
  done(
      run(program(train("third", {"trainer.init.from=" + (scratch / "first").string(), "trainer.steps=2"}))));
  EXPECT_EQ(tensors("second"), tensors("third"));
  const Json first_step = Json::parse(metrics("second").substr(0, metrics("second").find('\n')));
  EXPECT_EQ(first_step["samples"], 8);
  EXPECT_LT(first_step["loss"].get<double>(), 0.8 * std::log(257.0));
}

TEST_F(Checkpointing, WhatAWarmStartCannotUseIsNamed) {
  done(run(program(train("small", {"trainer.steps=1"}))));
  const auto refused = [&](const std::vector<std::string>& more) {
    std::vector<std::string> settings = more;
    settings.push_back("trainer.init.from=" + (scratch / "small").string());
    const Finished end = run(program(train("other", settings)));
    EXPECT_EQ(end.exit_code, 2) << end.out;
    return end.out;
  };
  EXPECT_THAT(refused({"model.width=32"}), HasSubstr("tensors have another shape or dtype there"));
  EXPECT_THAT(refused({"model.state.heads=0"}), HasSubstr("the model lacks tensors that it has: "));
  EXPECT_THAT(refused({"trainer.init.fresh=*.typo.*"}),
              HasSubstr("no tensor needs the pattern \"*.typo.*\""));
  const Finished missing = run(program(train("other", {"trainer.init.from=nowhere"})));
  EXPECT_EQ(missing.exit_code, 2);
  EXPECT_THAT(missing.out, HasSubstr("trainer.init.from: nowhere: cannot be opened"));
}

// ---- looking at them ----

TEST_F(Checkpointing, InspectShowsHowTwoDiffer) {
  done(run(program(train("a", {"trainer.steps=2"}))));
  done(run(mpirun(2, train("b", {"trainer.steps=2"}))));
  done(run(program(train("c", {"trainer.steps=3", "optimizer.weight_decay=0.3"}))));
  const auto compare = [&](const std::string& other) {
    return run(program({"inspect", (scratch / "a").string(), "--compare", (scratch / other).string()})).out;
  };
  EXPECT_THAT(compare("b"), HasSubstr("all tensors are equal to the bit"));
  EXPECT_THAT(compare("c"),
              AllOf(HasSubstr("step 3, 24 samples"), HasSubstr("optimizer.weight_decay: 0.1 -> 0.3"),
                    HasSubstr("model head.weight"), HasSubstr("largest difference")));
}

}  // namespace
}  // namespace wuneng::tests
