// Whole runs whose ranks share the heads: the same curve as one process, and checkpoints that go from any
// mesh to any other.
#include <gmock/gmock.h>

#include <cmath>

#include "common/check.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::HasSubstr;

struct Variant {
  const char* name;
  std::vector<std::string> settings;
};

// Between them: every kind of head, and a vocabulary that two ranks cannot halve. The others: ManyMeshes.
const Variant variants[] = {
    {"GatedWithMixedMiddleHeads",
     {"model.attention.heads=4", "model.attention.kv_heads=2", "model.attention.head_size=16",
      "model.state.heads=2", "model.fusion.mode=gated", "model.middle.mode=mixed", "model.middle.heads=6",
      "model.logit_pull=1e-4"}},
    {"AdditiveWithKeys",
     {"model.state.heads=2", "model.fusion.mode=additive", "model.middle.mode=key", "model.middle.heads=2",
      "model.tied_head=true"}},
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

class Meshes : public TinyRun {
 protected:
  void expect_same_curve(const std::string& name, const std::string& wanted, std::size_t numbers) {
    const std::vector<double> ours = curve(name), theirs = curve(wanted);
    ASSERT_EQ(ours.size(), theirs.size());
    ASSERT_EQ(ours.size(), numbers);
    for (std::size_t i = 0; i < ours.size(); ++i)
      EXPECT_NEAR(ours[i], theirs[i], 1e-5 * theirs[i]) << name << " " << i;
  }
};

class TensorParallel : public Meshes, public testing::WithParamInterface<Variant> {
 protected:
  std::vector<std::string> with(const std::vector<std::string>& more) const {
    std::vector<std::string> all = GetParam().settings;
    all.insert(all.end(), {"trainer.steps=8", "data.validation=" + corpus, "trainer.validate_every=4"});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  void done(const Finished& finished) { ASSERT_EQ(finished.exit_code, 0) << finished.out; }
};
INSTANTIATE_TEST_SUITE_P(Configurations, TensorParallel, testing::ValuesIn(variants),
                         [](const auto& info) { return info.param.name; });

TEST_P(TensorParallel, RanksThatShareTheHeadsLearnTheSameAndTheRunGoesOnOnAnotherMesh) {
  done(run(program(train("alone", with({})))));
  done(run(mpirun(2, train("two", with({"parallel.tensor=2"})))));
  done(run(mpirun(4, train("four", with({"parallel.tensor=2", "trainer.checkpoint.every=3"})))));
  expect_same_curve("two", "alone", 18);       // 8 steps, 2 validations
  EXPECT_EQ(tensors("four"), tensors("two"));  // elastic to the bit over the data axis
  EXPECT_EQ(metrics("four"), metrics("two"));

  // As if it had been killed after step 6, it goes on alone.
  const auto checkpoint = [&](int step) {
    return scratch / "four" / "checkpoints" / fmt::format("step-{:08}", step);
  };
  std::filesystem::remove_all(checkpoint(8));
  ASSERT_TRUE(std::filesystem::exists(checkpoint(6)));
  done(run(program(train("four", with({})))));
  expect_same_curve("four", "alone", 18);
}

// Norms and residuals split by tokens: again the same curve, and a run may go on without or with it.
TEST_P(TensorParallel, RanksThatShareTheTokensBetweenLayersLearnTheSame) {
  const std::vector<std::string> in_parts{"parallel.tensor=2", "parallel.sequence=true",
                                          "trainer.checkpoint.every=3"};
  done(run(program(train("alone", with({})))));
  done(run(mpirun(4, train("parts", with(in_parts)))));
  expect_same_curve("parts", "alone", 18);
  const auto checkpoint = [&](int step) {
    return scratch / "parts" / "checkpoints" / fmt::format("step-{:08}", step);
  };
  std::filesystem::remove_all(checkpoint(8));
  done(run(mpirun(2, train("parts", with(in_parts)))));
  expect_same_curve("parts", "alone", 18);
}

TEST_F(Meshes, SequencesThatTheRanksCannotSplitAreNamed) {
  const std::vector<std::string> settings{"parallel.sequence=true", "data.sequence_length=63"};
  std::vector<std::string> fixed = settings, automatic = settings;
  fixed.push_back("parallel.tensor=2");
  automatic.insert(automatic.end(), {"parallel.tensor=auto", "parallel.data=1", "model.state.heads=2"});
  for (const Finished& end : {run(program(train("run", fixed))), run(mpirun(2, train("run", automatic)))}) {
    EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::usage)) << end.out;
    EXPECT_THAT(end.out,
                HasSubstr("data.sequence_length = 63: with parallel.sequence it must be a multiple of "
                          "parallel.tensor = 2; the nearest are 62 and 64"));
  }
}

// Four ranks, of which two hold the same key head; over the checkpoint it is one again.
TEST_F(Meshes, KeyHeadsFewerThanRanksAreHeldInCopies) {
  const std::vector<std::string> settings{"trainer.steps=4",
                                          "model.attention.heads=4",
                                          "model.attention.kv_heads=2",
                                          "model.attention.head_size=16",
                                          "model.attention.qk_norm=true",
                                          "model.state.heads=4"};
  ASSERT_EQ(run(program(train("alone", settings))).exit_code, 0);
  std::vector<std::string> split = settings;
  split.push_back("parallel.tensor=4");
  const Finished end = run(mpirun(4, train("four", split)));
  ASSERT_EQ(end.exit_code, 0) << end.out;
  expect_same_curve("four", "alone", 8);
}

// Three ranks, which no fixed tree allows, in the order that the library chooses.
TEST_F(Meshes, ThreeDataParallelRanksLearnTheSameByTheFastReduction) {
  const std::vector<std::string> settings{"trainer.steps=8", "trainer.global_batch=12",
                                          "data.validation=" + corpus, "trainer.validate_every=4"};
  ASSERT_EQ(run(program(train("alone", settings))).exit_code, 0);
  for (const std::string shard : {"true", "false"}) {
    std::vector<std::string> fast = settings;
    fast.insert(fast.end(), {"parallel.reduction=fast", "parallel.shard_optimizer=" + shard});
    const Finished end = run(mpirun(3, train("fast" + shard, fast)));
    ASSERT_EQ(end.exit_code, 0) << end.out;
    expect_same_curve("fast" + shard, "alone", 18);
  }
  const Finished refused = run(mpirun(3, train("tree", settings)));
  EXPECT_EQ(refused.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(refused.out, HasSubstr("3 data-parallel ranks cannot share 6 micro-batches"));
}

TEST_F(Meshes, NumbersOfRanksThatDoNotDivideTheHeadsAreNamed) {
  const Finished end = run(mpirun(2, train("run", {"parallel.tensor=2", "model.attention.heads=4"})));
  EXPECT_EQ(end.exit_code, static_cast<int>(ExitCode::usage));
  EXPECT_THAT(end.out, HasSubstr("parallel.tensor = 2: does not divide model.state.heads = 1"));
}

TEST_F(Meshes, GenerationAndEvaluationShareTheHeadsToo) {
  const std::vector<std::string> settings{"trainer.steps=2", "model.state.heads=2"};
  ASSERT_EQ(run(program(train("run", settings))).exit_code, 0);
  const std::string folder = (scratch / "run").string();
  const std::vector<std::string> generate{"generate", folder, "--prompt",      "in the",
                                          "--tokens", "20",   "--temperature", "0"};
  const Finished alone = run(program(generate)), together = run(mpirun(2, generate));
  ASSERT_EQ(alone.exit_code, 0) << alone.out;
  EXPECT_EQ(together.out, alone.out);
  const Finished one = run(program({"evaluate", folder, "--data", corpus})),
                 two = run(mpirun(2, {"evaluate", folder, "--data", corpus, "--tensor", "2"}));
  ASSERT_EQ(one.exit_code, 0) << one.out;
  ASSERT_EQ(two.exit_code, 0) << two.out;
  const auto loss = [](const std::string& out) { return std::stod(out.substr(out.find("loss") + 4)); };
  EXPECT_NEAR(loss(two.out), loss(one.out), 1e-5 * loss(one.out));
}

}  // namespace
}  // namespace wuneng::tests
