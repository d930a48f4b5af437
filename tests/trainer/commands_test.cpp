// The program's commands on good and on bad input: one message with place, value and remedy, and the right
// exit code.
#include <gmock/gmock.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

#include "common/check.h"
#include "common/file.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

class Commands : public TinyRun {
 protected:
  // The program refuses: exit code 2, one error line that has all of `parts`.
  static void expect_refused(const Finished& end, const std::vector<std::string>& parts,
                             ExitCode code = ExitCode::usage) {
    EXPECT_EQ(end.exit_code, static_cast<int>(code)) << end.out;
    for (const std::string& part : parts) EXPECT_THAT(end.out, HasSubstr(part));
    const std::size_t first = end.out.find("wuneng: error:");
    ASSERT_NE(first, std::string::npos) << end.out;
    EXPECT_EQ(end.out.find("wuneng: error:", first + 1), std::string::npos) << "said twice:\n" << end.out;
  }

  std::string trained(const std::string& name = "run", const std::vector<std::string>& overrides = {}) {
    std::vector<std::string> all{"trainer.steps=4", "trainer.checkpoint.every=2"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    const Finished done = run(program(train(name, all)));
    EXPECT_EQ(done.exit_code, 0) << done.out;
    return (scratch / name).string();
  }

  void overwrite(const std::filesystem::path& file, std::int64_t at, const std::string& bytes) const {
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(at >= 0 ? at : static_cast<std::int64_t>(std::filesystem::file_size(file)) + at);
    stream << bytes;
  }
};

// ---- usage and configuration ----

TEST_F(Commands, HelpAndVersionAreFineAndUnknownCommandsAreNot) {
  EXPECT_EQ(run(program({"--help"})).exit_code, 0);
  EXPECT_THAT(run(program({"--version"})).out, HasSubstr("LibTorch"));
  for (const char* command : {"train", "evaluate", "generate", "tokenize", "inspect", "export"})
    EXPECT_THAT(run(program({command, "--help"})).out, HasSubstr("Usage: wuneng " + std::string(command)));
  EXPECT_EQ(run(program({"trian"})).exit_code, 2);
  EXPECT_EQ(run(program({})).exit_code, 2);
  EXPECT_THAT(run(program({"help", "config"})).out,
              AllOf(HasSubstr("model.attention.heads"), HasSubstr("trainer.checkpoint.every")));
}

TEST_F(Commands, PrintConfigShowsTheResolvedConfigurationAndStops) {
  const Finished shown =
      run(program({"train", std::string(std::getenv("WUNENG_SOURCE")) + "/configs/tiny.yaml", "--set",
                   "seed=42", "--print-config"}));
  EXPECT_EQ(shown.exit_code, 0);
  EXPECT_THAT(shown.out, AllOf(HasSubstr("seed: 42"), HasSubstr("width: 64")));
}

TEST_F(Commands, BadKeysAndValuesAreRefusedOnceOnAllRanks) {
  expect_refused(run(program(train("run", {"model.atention.heads=2"}))),
                 {"model.atention.heads", "did you mean", "model.attention.heads"});
  expect_refused(run(mpirun(2, train("run", {"model.fusion.mode=gatd"}))),
                 {"model.fusion.mode", "gatd", "concat"});
  expect_refused(run(program(train("run", {"trainer.steps=-5"}))), {"trainer.steps", "-5", "at least 1"});
  expect_refused(run(program(train("run", {"model.attention.heads=3", "model.attention.kv_heads=2"}))),
                 {"3", "2"});
  expect_refused(run(program(train("run", {"trainer.micro_batch=3"}))), {"trainer.global_batch", "8", "3"});
  EXPECT_FALSE(std::filesystem::exists(scratch / "run"));
}

TEST_F(Commands, WorldSizesThatDoNotFitAreRefusedWithTheNumbers) {
  expect_refused(run(mpirun(2, train("run", {"parallel.data=4"}))), {"parallel.data = 4", "mpirun -n 4"});
  expect_refused(run(mpirun(3, train("run"))), {"3 data-parallel ranks", "4 micro-batches", "1, 2, 4"});
  expect_refused(run(mpirun(2, {"tokenize", "--output", "x", "y"})), {"without mpirun"});
}

// ---- data ----

TEST_F(Commands, MissingAndDamagedCorporaAreNamed) {
  expect_refused(run(program(train("run", {"data.train=" + (scratch / "none").string()}))),
                 {"none.bin", "No such file"});
  expect_refused(run(program(train("run", {"model.vocab_size=100"}))), {"corpus", "vocab_size"});
  overwrite(corpus + ".idx", 0, "XX");
  expect_refused(run(mpirun(2, train("run"))), {"corpus.idx", "wuneng tokenize"});
  overwrite(corpus + ".idx", 0, "MM");
  overwrite(corpus + ".idx", 9, "\x07");
  expect_refused(run(program(train("run"))), {"corpus.idx", "7"});
  overwrite(corpus + ".idx", 9, "\x01");
  std::filesystem::resize_file(corpus + ".bin", 1001);
  expect_refused(run(program(train("run"))), {"corpus.idx", "1001"});
}

TEST_F(Commands, ADecodedCorpusIsItsText) {
  const std::string text = "Plain, \xff\xfe binary\n" + std::string(1, '\0') + "and more.";
  write_file_atomically(scratch / "text", text);
  ASSERT_EQ(
      run(program({"tokenize", "--output", (scratch / "t").string(), (scratch / "text").string()})).exit_code,
      0);
  std::string expected;
  for (const unsigned char c : text) expected += std::string{static_cast<char>(c), '\0'};
  EXPECT_EQ(read_text(scratch / "t.bin"), expected + std::string("\0\1", 2));
}

// ---- run folders and checkpoints ----

TEST_F(Commands, RunFoldersOfOthersAreRefused) {
  trained();
  expect_refused(
      run(program(train("run", {"trainer.steps=4", "trainer.checkpoint.every=2", "optimizer.lr=1e-2"}))),
      {"optimizer.lr", "0.003", "0.01", "--output"});
  make_folder(scratch / "other");
  write_file_atomically(scratch / "other" / "thesis.tex", "x");
  expect_refused(run(program(train("other"))), {"other", "neither empty nor a run folder"});
  write_file_atomically(scratch / "file", "x");
  expect_refused(run(program(train("file"))), {"file"});
}

TEST_F(Commands, AnotherCorpusThanTheCheckpointsIsRefused) {
  trained();
  const std::string other = (scratch / "other").string();
  ASSERT_EQ(run(program({"tokenize", "--output", other, (scratch / "text1").string()})).exit_code, 0);
  expect_refused(
      run(program(train("run", {"data.train=" + other, "trainer.steps=9", "trainer.checkpoint.every=2"}))),
      {"data.train", "hash"});
}

TEST_F(Commands, DamagedCheckpointsAreNamedWithTheRemedy) {
  const std::filesystem::path newest = std::filesystem::path(trained()) / "checkpoints" / "step-00000004";
  overwrite(newest / "model.safetensors", -5, "?");
  expect_refused(run(mpirun(2, train("run", {"trainer.steps=6", "trainer.checkpoint.every=2"}))),
                 {"model.safetensors", "head.weight", "delete"});
  expect_refused(run(program({"generate", (scratch / "run").string(), "--prompt", "a"})),
                 {"model.safetensors"});
  std::filesystem::remove(newest / "optimizer.safetensors");
  expect_refused(run(program(train("run", {"trainer.steps=6", "trainer.checkpoint.every=2"}))),
                 {"optimizer.safetensors", "delete"});
  std::filesystem::remove_all(newest);  // the remedy
  EXPECT_EQ(run(program(train("run", {"trainer.steps=6", "trainer.checkpoint.every=2"}))).exit_code, 0);
}

TEST_F(Commands, AFullDiskWhileSavingEndsTheRunAndHarmsNoEarlierCheckpoint) {
  // A file size limit fails a write exactly as a full disk does, halfway through; the limit lets the metrics
  // and the manifest of the first checkpoint pass.
  const std::string schedule = "optimizer.schedule=constant";  // which does not depend on the number of steps
  trained("run", {"trainer.steps=2", schedule});
  const std::vector<std::string> go_on =
      program(train("run", {"trainer.steps=6", "trainer.checkpoint.every=2", schedule}));
  std::vector<std::string> limited{"sh", "-c", "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\""};
  limited.insert(limited.end(), go_on.begin(), go_on.end());
  const std::string before = tensors("run");
  expect_refused(run(limited), {"step-00000004", "safetensors", "write failed"}, ExitCode::failed);
  EXPECT_EQ(tensors("run"), before);
  EXPECT_EQ(run(go_on).exit_code, 0);
  trained("straight", {"trainer.steps=6", schedule});
  EXPECT_EQ(tensors("run"), tensors("straight"));
}

// ---- evaluate, generate, export ----

TEST_F(Commands, EvaluateAgreesWithTheRunAndWithAnyNumberOfRanks) {
  const std::string folder = trained("run", {"data.validation=" + corpus});
  const auto result =
      [&](const Finished& end) {  // the JSON line, without what a launcher may print around it
        EXPECT_EQ(end.exit_code, 0) << end.out;
        const std::size_t begin = end.out.find("{\"loss\":");
        return begin == std::string::npos ? end.out
                                          : end.out.substr(begin, end.out.find('}', begin) + 1 - begin);
      };
  const std::string alone = result(run(program({"evaluate", folder, "--data", corpus, "--json"})));
  EXPECT_EQ(result(run(mpirun(2, {"evaluate", folder, "--data", corpus, "--json"}))), alone);
  const std::string loss = alone.substr(8, alone.find(',') - 8);
  EXPECT_THAT(metrics("run"), HasSubstr("\"validation_loss\":" + loss));
  EXPECT_THAT(alone, AllOf(HasSubstr("bits_per_byte"), HasSubstr("perplexity"), HasSubstr("\"tokens\"")));
}

TEST_F(Commands, GenerateRepeatsItselfWithTheSameSeed) {
  const std::string folder = trained();
  const auto sample = [&](const std::string& seed) {
    return run(program({"generate", folder, "--prompt", "bado ", "--tokens", "30", "--seed", seed}));
  };
  const Finished first = sample("1");
  EXPECT_EQ(first.exit_code, 0) << first.out;
  EXPECT_EQ(first.out.substr(0, 5), "bado ");
  EXPECT_EQ(sample("1").out, first.out);
  EXPECT_NE(sample("2").out, first.out);
  expect_refused(run(program({"generate", folder, "--prompt", ""})), {"--prompt"});
  expect_refused(run(program({"generate", (scratch / "none").string(), "--prompt", "a"})), {"none"});
}

TEST_F(Commands, GenerateGoesOnFromSeveralTextsAsFromEachAlone) {
  const std::string folder = trained();
  const auto go_on = [&](std::vector<std::string> prompts) {
    std::vector<std::string> arguments{"generate", folder, "--tokens", "12", "--temperature", "0"};
    for (const std::string& prompt : prompts) arguments.insert(arguments.end(), {"--prompt", prompt});
    return run(program(arguments)).out;
  };
  EXPECT_EQ(go_on({"bado ", "xy"}), "==> 1 <==\n" + go_on({"bado "}) + "==> 2 <==\n" + go_on({"xy"}));
}

TEST_F(Commands, GenerateEndsBeforeAStopString) {
  const std::string folder = trained();
  const std::vector<std::string> arguments{"generate", folder, "--prompt", "bado ",
                                           "--tokens", "40",   "--seed",   "1"};
  const std::string whole = run(program(arguments)).out, stop = whole.substr(20, 2);
  std::vector<std::string> stopped = arguments;
  stopped.insert(stopped.end(), {"--stop", stop});
  EXPECT_EQ(run(program(stopped)).out, whole.substr(0, whole.find(stop, 5)) + "\n");
  stopped.back() = "";
  expect_refused(run(program(stopped)), {"--stop"});
}

TEST_F(Commands, InspectCountsAModelOfAnySizeWithoutMakingIt) {
  const std::string models = std::string(std::getenv("WUNENG_SOURCE")) + "/configs/models/";
  const Finished large = run(program({"inspect", models + "7b-wuneng.yaml"}));
  EXPECT_EQ(large.exit_code, 0) << large.out;
  EXPECT_THAT(large.out, AllOf(HasSubstr("state and middle heads add"), HasSubstr("MiB of states")));
}

TEST_F(Commands, InspectMatchesParametersByTheFeedForward) {
  const std::string models = std::string(std::getenv("WUNENG_SOURCE")) + "/configs/models/";
  const std::string ours = models + "125m-transformer.yaml", other = models + "125m-wuneng.yaml";
  const auto parameters = [&](std::vector<std::string> arguments) {
    const std::string json = run(program(arguments)).out;
    return std::stod(json.substr(json.find("\"parameters\":") + 13));
  };
  const std::string match = run(program({"inspect", ours, "--match-parameters", other})).out;
  ASSERT_EQ(match.substr(0, 6), "--set ") << match;
  const double matched =
      parameters({"inspect", ours, "--json", "--set", match.substr(6, match.find(' ', 6) - 6)});
  const double target = parameters({"inspect", other, "--json"});
  EXPECT_GT(std::abs(parameters({"inspect", ours, "--json"}) / target - 1.0), 0.01);
  EXPECT_LT(std::abs(matched / target - 1.0), 0.005);
}

TEST_F(Commands, ExportRefusesWhatAFormatCannotHold) {
  const std::string folder = trained(), out = (scratch / "out").string();
  expect_refused(run(program({"export", folder, out, "--format", "llama"})),
                 {"llama", "model.state.heads = 1", "safetensors"});
  expect_refused(run(program({"export", folder, out, "--format", "rwkv"})),
                 {"rwkv", "model.attention.heads = 2"});
  expect_refused(run(program({"export", folder, out, "--format", "onnx"})),
                 {"onnx", "llama, rwkv, safetensors"});
  EXPECT_EQ(run(program({"export", folder, out})).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(out));
}

}  // namespace
}  // namespace wuneng::tests
