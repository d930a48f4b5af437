#include <gmock/gmock.h>

#include <random>
#include <vector>

#include "tests/trainer/config_support.h"
#include "trainer/config.h"

namespace wuneng::trainer {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

std::string problem_in(const std::string& yaml) {
  return problem_of([&] { parse_config(yaml, "configs/x.yaml"); });
}

std::string problem_with(const std::string& assignment) {
  static const ConfigFolder folder;
  static const std::filesystem::path file = folder.write("x.yaml", "");
  return problem_of([&] { load_config(file, {assignment}); });
}

struct Case {
  std::string input, message;
};

TEST(ConfigErrors, UnknownNamesComeWithTheNearestOnes) {
  const std::vector<Case> cases = {
      {"seed: 1\nmodel:\n  attention:\n    headz: 3\n",
       "configs/x.yaml:4: model.attention.headz: unknown key; did you mean model.attention.heads?"},
      {"seed: 1\n\nmodel:\n  atention:\n    heads: 3\n    head_siz: 4\n",
       "configs/x.yaml:4: model.atention: unknown section; did you mean model.attention?"},
      {"model:\n  wdith: 3\n", "configs/x.yaml:2: model.wdith: unknown key; did you mean model.width?"},
      {"modle: {width: 3}\n", "configs/x.yaml:1: modle: unknown section; did you mean model?"},
      {"checkpoint: {every: 3}\n",
       "configs/x.yaml:1: checkpoint: unknown section; did you mean trainer.checkpoint?"},
      {"model: {learning: 3}\n",
       "configs/x.yaml:1: model.learning: unknown key; known in model: width, layers, vocab_size, "
       "pattern, norm, norm_eps, embedding_norm, biases, learned_positions, z_loss, logit_pull, tied_head, "
       "init, "
       "attention, state, fusion, middle, ffn"},
      {"zebra: 3\n",
       "configs/x.yaml:1: zebra: unknown key; known at the top: seed, model, data, parallel, optimizer, "
       "trainer"},
  };
  for (const Case& each : cases) EXPECT_EQ(problem_in(each.input), each.message);
}

TEST(ConfigErrors, UnknownOverridesComeWithTheNearestOnes) {
  const std::vector<Case> cases = {
      {"model.atention.heads=3", "did you mean model.attention.heads?"},
      {"model.attention.head=3", "did you mean model.attention.heads?"},
      {"model.state.haeds=3", "did you mean model.state.heads?"},
      {"model.heads=3", "did you mean model.attention.heads or model.state.heads or model.middle.heads?"},
      {"lr=3", "did you mean optimizer.lr?"},
      {"optimizer.rl=3", "did you mean optimizer.lr?"},
      {"model.ffn_kind=rwkv", "did you mean model.ffn.kind?"},
      {"trainer.lr=3", "did you mean optimizer.lr?"},
      {"trainer.checkpoint.evry=3", "did you mean trainer.checkpoint.every?"},
      {"trainer.checkpoint.frequency=3", "known in trainer.checkpoint: every, every_minutes, keep"},
      {"a.b.c.d=3", "known at the top: seed, model"},
      {std::string(1000, 'x') + "=3", "known at the top: seed, model"},
      {"..=3", "known at the top: seed, model"},
  };
  for (const Case& each : cases) {
    EXPECT_EQ(problem_with(each.input).find("--set " + each.input + ": unknown key; " + each.message), 0U)
        << problem_with(each.input);
  }
}

TEST(ConfigErrors, OverridesMustBeAssignmentsOfKeys) {
  for (const std::string text : {"trainer.steps", "", "=5", "="}) {
    EXPECT_EQ(problem_with(text), "--set " + text + ": must be KEY=VALUE, such as trainer.steps=1000");
  }
  EXPECT_EQ(problem_with("trainer.checkpoint=3"),
            "--set trainer.checkpoint=3: trainer.checkpoint is a section; set one of the names in it: every, "
            "every_minutes, keep, keep_every, keep_best, on_failure, fall_back");
}

TEST(ConfigErrors, DuplicatesNameBothLines) {
  EXPECT_EQ(problem_in("seed: 1\nmodel:\n  width: 2\n  layers: 2\n  width: 2\n"),
            "configs/x.yaml:5: model.width: is given twice, first in line 3; remove one");
  EXPECT_EQ(problem_in("model: {width: 2}\nseed: 1\nmodel: {layers: 2}\n"),
            "configs/x.yaml:3: model: is given twice, first in line 1; remove one");
}

TEST(ConfigErrors, SectionsAndValuesAreNotMixedUp) {
  EXPECT_EQ(
      problem_in("model:\n  attention: 4\n"),
      "configs/x.yaml:2: model.attention = 4: is a section and takes no value of its own; it holds: heads, "
      "kv_heads, head_size, positions, rope_base, rope_scaling, rope_factor, qk_norm, window, global_every, "
      "softcap");
  EXPECT_THAT(problem_in("model: [1, 2]\n"), StartsWith("configs/x.yaml:1: model: is a section"));
  EXPECT_EQ(problem_in("seed:\n  value: 3\n"), "configs/x.yaml:1: seed: takes one value, not a section");
  EXPECT_EQ(problem_in("seed: [3]\n"), "configs/x.yaml:1: seed: takes one value, not a list");
  EXPECT_THAT(problem_in("seed:\n"), StartsWith("configs/x.yaml:1: seed: has no value"));
  EXPECT_THAT(problem_in("data: {validation: ~}\n"),
              StartsWith("configs/x.yaml:1: data.validation: has no value"));
  EXPECT_THAT(problem_in("model.width: 3\n"),
              StartsWith("configs/x.yaml:1: model.width: write nested sections"));
}

TEST(ConfigErrors, FilesMustHoldOneMapOfPlainNames) {
  EXPECT_EQ(problem_in("- 1\n"), "configs/x.yaml: must hold sections such as `model:`, not a list");
  EXPECT_EQ(problem_in("5\n"), "configs/x.yaml: must hold sections such as `model:`, not a single value");
  for (const std::string text : {"seed: 1\n---\nseed: 2\n", ",\nseed: 1\n", ",seed: 1\n", "'a'\n'b'\n"}) {
    EXPECT_THAT(problem_in(text), HasSubstr(": a second YAML document starts here")) << text;
  }
  EXPECT_THAT(problem_in("seed: 1\n---\nseed: 2\n"), StartsWith("configs/x.yaml:2: "));
  EXPECT_EQ(problem_in("---\nseed: 1\n...\n"), "");
  EXPECT_EQ(problem_in("seed: 1\n? [1, 2]\n: 3\n"), "configs/x.yaml:2: a name must be a plain word");
  EXPECT_EQ(problem_in("\"\": {seed: 3}\n"), "configs/x.yaml:1: a name must be a plain word");
  EXPECT_THAT(problem_in("seed: !!int 3\n"),
              StartsWith("configs/x.yaml:1: seed: write the plain value, without the tag"));
  EXPECT_THAT(problem_in("model: &m {attention: *m}\n"), HasSubstr("model.attention.attention"));
}

TEST(ConfigErrors, SyntaxErrorsNameTheLine) {
  EXPECT_THAT(problem_in("seed: 1\nmodel: {width: 3\n"), StartsWith("configs/x.yaml:3: is not valid YAML: "));
  EXPECT_THAT(problem_in("seed: 1\n\twidth: 3\n"), StartsWith("configs/x.yaml:2: is not valid YAML: "));
  EXPECT_THAT(problem_in("seed: *nobody\n"), StartsWith("configs/x.yaml:1: is not valid YAML: "));
  EXPECT_THAT(problem_in(std::string(100'000, '[')), HasSubstr("is not valid YAML"));
}

TEST(ConfigErrors, ExtendsTakesFileNames) {
  for (const std::string value : {"{a: b}", "~", "\"\"", "[a.yaml, [b.yaml]]", "[\"\"]"}) {
    EXPECT_EQ(problem_in("seed: 1\nextends: " + value + "\n"),
              "configs/x.yaml:2: extends: must be a file name or a list of file names");
  }
  EXPECT_THAT(problem_in("model: {extends: a.yaml}\n"), HasSubstr("model.extends: unknown key"));
}

TEST(ConfigErrors, IntegersAreStrict) {
  const std::vector<Case> cases = {
      {"1e3", "must be an integer: write 1000"},
      {"1_000", "must be an integer: write 1000"},
      {"0x10", "must be an integer: write 16"},
      {"010", "must be an integer: write 10"},
      {"+5", "must be an integer: write 5"},
      {"5.0", "must be an integer: write 5"},
      {"\"5\"", "must be an integer: write 5 without quotes"},
      {"5.5", "must be an integer, such as 1000"},
      {"many", "must be an integer, such as 1000"},
      {"auto", "must be an integer, such as 1000"},
      {"true", "must be an integer, such as 1000"},
      {".nan", "must be an integer, such as 1000"},
      {"nan", "must be an integer, such as 1000"},
      {"1e300", "must be an integer, such as 1000"},
      {"5 6", "must be an integer, such as 1000"},
      {"-5", "must be at least 1"},
      {"0", "must be at least 1"},
      {"1000000001", "must be at most 1000000000"},
      {"99999999999999999999", "must be at most 1000000000"},
      {"-99999999999999999999", "must be at least 1"},
  };
  for (const Case& each : cases) {
    const bool quoted = each.input.starts_with('"');
    const std::string shown = quoted ? each.input.substr(1, each.input.size() - 2) : each.input;
    EXPECT_EQ(problem_in("seed: 1\ntrainer:\n  steps: " + each.input + "\n"),
              "configs/x.yaml:3: trainer.steps = " + shown + ": " + each.message);
    if (!quoted) {
      EXPECT_EQ(problem_with("trainer.steps=" + each.input),
                "--set trainer.steps=" + each.input + ": " + each.message);
    }
  }
  EXPECT_EQ(problem_with("trainer.steps="), "--set trainer.steps=: must be an integer, such as 1000");
  EXPECT_EQ(problem_with("trainer.steps= 7"), "--set trainer.steps= 7: must be an integer: write 7");
  EXPECT_EQ(problem_with("trainer.steps=7 "), "--set trainer.steps=7 : must be an integer, such as 1000");
}

TEST(ConfigErrors, IntegersWithAutoSaySo) {
  for (const std::string key : {"parallel.data", "parallel.tensor", "model.attention.kv_heads",
                                "model.state.decay_rank", "model.state.rate_rank", "model.state.value_rank",
                                "model.state.gate_rank", "model.ffn.hidden", "trainer.threads"}) {
    EXPECT_EQ(problem_with(key + "=-1"), "--set " + key + "=-1: must be auto or at least 1");
    EXPECT_EQ(problem_with(key + "=automatic"),
              "--set " + key + "=automatic: must be auto or an integer, such as 1");
    EXPECT_EQ(problem_with(key + "=auto"), "");
    EXPECT_EQ(problem_with(key + "=0"), "");
    EXPECT_EQ(problem_with(key + "=1"), "");
  }
}

TEST(ConfigErrors, IntegersMayHaveChoices) {
  EXPECT_EQ(problem_with("model.state.head_size=65"),
            "--set model.state.head_size=65: must be one of: 64, 128");
  EXPECT_EQ(problem_with("model.state.head_size=128"), "");
}

TEST(ConfigErrors, FloatsAreStrictAndFinite) {
  const std::vector<Case> cases = {
      {"nan", "must be a finite number, such as 1.0"},
      {".nan", "must be a finite number, such as 1.0"},
      {"inf", "must be a finite number, such as 1.0"},
      {"-inf", "must be a finite number, such as 1.0"},
      {".inf", "must be a finite number, such as 1.0"},
      {"1e999", "is too large or too small for a 64-bit float"},
      {"1e-999", "is too large or too small for a 64-bit float"},
      {"fast", "must be a finite number, such as 1.0"},
      {"3e", "must be a finite number, such as 1.0"},
      {"1_0.5", "must be a finite number: write 10.5"},
      {"+2", "must be a finite number: write 2.0"},
      {"010", "must be a finite number: write 10.0"},
      {"-00.5", "must be a finite number: write -0.5"},
      {"-1", "must be at least 0"},
      {"-1e-300", "must be at least 0"},
  };
  for (const Case& each : cases) {
    EXPECT_EQ(problem_in("optimizer: {clip: " + each.input + "}\n"),
              "configs/x.yaml:1: optimizer.clip = " + each.input + ": " + each.message);
  }
  EXPECT_EQ(problem_in("optimizer: {clip: '0.5'}\n"),
            "configs/x.yaml:1: optimizer.clip = 0.5: must be a finite number: write 0.5 without quotes");
  for (const std::string valid : {"0", "1", "1e3", "1.0E+3", ".5", "5.", "0.5", "0", "-0", "-0.0", "1e-18"}) {
    EXPECT_EQ(problem_in("optimizer: {clip: " + valid + "}\n"), "") << valid;
  }
}

TEST(ConfigErrors, FloatsHaveOpenAndClosedEnds) {
  EXPECT_EQ(problem_with("optimizer.beta1=1"), "--set optimizer.beta1=1: must be less than 1");
  EXPECT_EQ(problem_with("optimizer.beta2=1.5"), "--set optimizer.beta2=1.5: must be less than 1");
  EXPECT_EQ(problem_with("optimizer.eps=0"), "--set optimizer.eps=0: must be greater than 0");
  EXPECT_EQ(problem_with("model.norm_eps=0.0"), "--set model.norm_eps=0.0: must be greater than 0");
  EXPECT_EQ(problem_with("model.attention.rope_base=0.5"),
            "--set model.attention.rope_base=0.5: must be at least 1");
  EXPECT_EQ(problem_with("optimizer.beta1=0"), "");
}

TEST(ConfigErrors, NegativeZeroEqualsZero) {
  const Config minus = parse_config("optimizer: {weight_decay: -0.0}\n", "x"),
               plus = parse_config("optimizer: {weight_decay: 0}\n", "x");
  EXPECT_EQ(to_yaml(minus), to_yaml(plus));
  EXPECT_EQ(identity_hash(minus), identity_hash(plus));
}

TEST(ConfigErrors, FlagsAreTrueOrFalse) {
  for (const std::string value : {"yes", "no", "on", "off", "True", "FALSE", "1", "0", "\"true\""}) {
    EXPECT_THAT(problem_in("seed: 1\nmodel:\n  tied_head: " + value + "\n"),
                testing::AllOf(StartsWith("configs/x.yaml:3: model.tied_head = "),
                               HasSubstr(": must be true or false")));
  }
  EXPECT_EQ(problem_with("model.tied_head=true"), "");
  EXPECT_EQ(problem_with("model.tied_head=false"), "");
}

TEST(ConfigErrors, ChoicesListTheKnownOnes) {
  EXPECT_EQ(problem_with("model.fusion.mode=gatd"),
            "--set model.fusion.mode=gatd: must be one of: concat, additive, gated");
  EXPECT_EQ(problem_with("model.norm=RMS"), "--set model.norm=RMS: must be one of: rms, layer");
  EXPECT_EQ(problem_with("model.fusion.alpha="),
            "--set model.fusion.alpha=: must be one of: fixed, layer, head");
  EXPECT_EQ(problem_with("model.ffn.kind=silu"),
            "--set model.ffn.kind=silu: must be one of: swiglu, gelu, relu2, rwkv");
  EXPECT_EQ(problem_with("model.init=zero"), "--set model.init=zero: must be one of: normal, rwkv");
  EXPECT_EQ(problem_with("optimizer.schedule=wsd"),
            "--set optimizer.schedule=wsd: must be one of: cosine, constant");
}

TEST(ConfigErrors, TextsMustBeUtf8) {
  EXPECT_THAT(problem_with("data.train=a\xff\xfe"), HasSubstr("is not valid UTF-8"));
  EXPECT_EQ(problem_with("data.train=gr\xc3\xbcn"), "");
}

// Whatever is in a file: it is read, or refused with a message that names it. Nothing else is thrown, nothing
// crashes.
TEST(ConfigErrors, DamagedFilesAreReadOrRefused) {
  const std::string valid = to_yaml(Config{});
  const std::string alphabet = " \n\t:-#'\"{}[],&*!|>%@~?0123456789.eE_+abtrue\xc3\xa4\xff\x01\\/";
  std::mt19937 random(1);
  int refused = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = valid;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % text.size();
      const char symbol = alphabet[random() % alphabet.size()];
      if (random() % 2)
        text[at] = symbol;
      else
        text.insert(at, 1, symbol);
      if (random() % 50 == 0) text.resize(at + 1);
    }
    const std::string problem = problem_in(text);
    if (problem.empty()) continue;
    ++refused;
    ASSERT_THAT(problem, StartsWith("configs/x.yaml:"));
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace wuneng::trainer
