// Runs on a task instead of a corpus, through the program: they learn, resume, and do not depend on ranks.
#include <gmock/gmock.h>
#include <signal.h>

#include <nlohmann/json.hpp>

#include "common/json.h"
#include "tests/support/tiny_run.h"
#include "tests/trainer/config_support.h"
#include "trainer/config.h"

namespace wuneng::tests {
namespace {

using testing::HasSubstr;

void expect_done(const Finished& finished) { EXPECT_EQ(finished.exit_code, 0) << finished.out; }

const std::vector<std::string> parity{"data.task.name=parity",     "data.sequence_length=8",
                                      "data.task.test_lengths=12", "data.task.test_samples=50",
                                      "trainer.steps=6",           "trainer.validate_every=3"};

class TaskTrain : public TinyRun {
 protected:
  std::vector<std::string> train_task(const std::string& name, std::vector<std::string> overrides) const {
    overrides.insert(overrides.begin(), "data.train=");
    return train(name, overrides);
  }
  // The evaluation lines of metrics.jsonl.
  std::vector<Json> evaluations(const std::string& name) const {
    std::vector<Json> found;
    const std::string text = metrics(name);
    for (std::size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
      const Json line = Json::parse(text.substr(begin, end - begin));
      if (line.contains("validation_loss")) found.push_back(line);
    }
    return found;
  }
  Json evaluate(const std::vector<std::string>& command) const {
    const Finished done = run(command);
    expect_done(done);
    return Json::parse(done.out.substr(done.out.find('{')), nullptr, false);
  }
};

TEST_F(TaskTrain, ATinyModelLearnsToRecall) {
  expect_done(run(program(train_task(
      "run", {"data.task.name=mqar", "data.sequence_length=8", "data.task.count=2", "data.task.vocabulary=16",
              "data.task.test_samples=200", "trainer.steps=100", "trainer.global_batch=32",
              "trainer.micro_batch=32", "trainer.validate_every=50"}))));
  const std::vector<Json> lines = evaluations("run");
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1]["step"], 100);
  EXPECT_EQ(lines[1]["validation_tokens"], 400);
  EXPECT_GT(lines[1]["accuracy"]["8"].get<double>(), 0.95) << lines[1].dump();
  EXPECT_LT(lines[1]["validation_loss"].get<double>(), 0.3);
  EXPECT_EQ(lines[1]["accuracy"].size(), 1u);
}

TEST_F(TaskTrain, OneAndTwoRanksGiveTheSameBits) {
  expect_done(run(program(train_task("alone", parity))));
  expect_done(run(mpirun(2, train_task("two", parity))));
  EXPECT_EQ(tensors("two"), tensors("alone"));
  EXPECT_EQ(metrics("two"), metrics("alone"));
  EXPECT_THAT(metrics("alone"), HasSubstr(R"("accuracy":{"8":)"));
}

TEST_F(TaskTrain, AResumedRunEndsWithTheBitsOfOneThatNeverStopped) {
  expect_done(run(program(train_task("straight", parity))));
  std::vector<std::string> partly = parity;
  partly.insert(partly.end(), {"trainer.steps=4", "optimizer.schedule=constant"});
  std::vector<std::string> whole = parity;
  whole.push_back("optimizer.schedule=constant");
  expect_done(run(program(train_task("whole", whole))));
  expect_done(run(program(train_task("parts", partly))));
  expect_done(run(program(train_task("parts", whole))));
  EXPECT_EQ(tensors("parts"), tensors("whole"));
  EXPECT_NE(tensors("parts"), tensors("straight"));

  for (const char* change : {"data.task.name=a5", "data.task.shortest=2", "data.task.test_lengths=16"}) {
    std::vector<std::string> other = whole;
    other.push_back(change);
    const Finished refused = run(program(train_task("parts", other)));
    EXPECT_EQ(refused.exit_code, 2) << refused.out;
    EXPECT_THAT(refused.out, HasSubstr(std::string(change).substr(0, std::string(change).find('='))));
  }
}

TEST_F(TaskTrain, EvaluateRepeatsTheTestsOnAnyMesh) {
  std::vector<std::string> recall{
      "data.task.name=state_recall", "data.sequence_length=34", "data.task.test_lengths=46",
      "data.task.test_samples=50",   "trainer.steps=3",         "model.attention.heads=2",
      "model.state.heads=2",         "model.vocab_size=17"};
  expect_done(run(program(train_task("run", recall))));
  const Json line = evaluations("run").at(0);
  const std::string folder = (scratch / "run").string();
  const Json alone = evaluate(program({"evaluate", folder, "--json"}));
  EXPECT_EQ(alone["loss"], line["validation_loss"]);
  for (const std::string metric : {"accuracy", "accuracy_moved"}) {
    ASSERT_TRUE(line.contains(metric)) << line.dump();
    EXPECT_EQ(alone[metric], line[metric]);
    EXPECT_EQ(alone[metric].size(), 2u);
  }
  // A vocabulary of 17 that two ranks share unevenly.
  for (const std::string tensor : {"1", "2"}) {
    const Json two = evaluate(mpirun(2, {"evaluate", folder, "--json", "--tensor", tensor}));
    EXPECT_NEAR(two["loss"].get<double>(), alone["loss"].get<double>(), 1e-5);
    EXPECT_EQ(two["accuracy"], alone["accuracy"]) << tensor;
    EXPECT_EQ(two["accuracy_moved"], alone["accuracy_moved"]) << tensor;
  }
  const Finished text = run(program({"evaluate", folder}));
  expect_done(text);
  EXPECT_THAT(text.out, HasSubstr("accuracy_moved"));
  const Finished on_corpus = run(program({"evaluate", folder, "--data", corpus}));
  EXPECT_EQ(on_corpus.exit_code, 2) << "ids of the corpus are outside the vocabulary";
}

TEST_F(TaskTrain, ARunOnACorpusHasNoTestOfItsOwn) {
  expect_done(run(program(train("run", {"trainer.steps=1"}))));
  const Finished refused = run(program({"evaluate", (scratch / "run").string()}));
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.out, HasSubstr("give a corpus (--data PREFIX)"));
}

TEST(TaskConfig, CombinationsThatCannotWorkAreRefused) {
  struct Case {
    std::vector<std::string> settings;
    const char* message;
  };
  const Case cases[] = {
      {{"data.task.name=palindrome"}, "must be one of: none, mqar, a5, s5, parity, selective_copy"},
      {{"data.task.name=parity", "data.train=x"},
       "data.train = x: data.task.name = parity makes its own data; leave one of them out"},
      {{"data.task.name=parity", "data.validation=y"}, "data.validation = y: data.task.name = parity"},
      {{"data.task.name=mqar"},
       "model.vocab_size = 257: data.task.name = mqar has 8192 token ids; set model.vocab_size=8192 or more"},
      {{"data.task.count=3"}, "data.task.count: data.task.name = none has no such setting"},
      {{"data.task.name=mqar", "data.task.vocabulary=64", "data.task.count=17"}, "need 68 tokens or more"},
      {{"data.task.name=parity", "data.task.test_lengths=128", "model.learned_positions=64"},
       "data.task.test_lengths: 128 tokens must be at most model.learned_positions = 64"},
      {{"data.task.test_samples=0"}, "data.task.test_samples=0: must be at least 1"},
  };
  for (const Case& each : cases)
    EXPECT_THAT(
        trainer::problem_of([&] { trainer::load_config(source("configs/tiny.yaml"), each.settings); }),
        HasSubstr(each.message));
  EXPECT_NO_THROW(trainer::load_config(
      source("configs/tiny.yaml"),
      {"data.task.name=parity", "data.task.test_lengths=128", "model.learned_positions=128"}));
}

}  // namespace
}  // namespace wuneng::tests
