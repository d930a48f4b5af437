// The report of an ablation, made from metrics that the test writes itself; its numbers are computed anew
// here.
#include <gmock/gmock.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <regex>

#include "common/json.h"
#include "tests/trainer/config_support.h"
#include "trainer/ablate/live_table.h"
#include "trainer/ablate/report.h"
#include "trainer/checkpoint/folder.h"

namespace wuneng::trainer::ablate {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr double t_of_two =
    4.302652729911275;  // 0.95 sqrt(2 / (1 - 0.95^2)), the quantile of two degrees of freedom

class AblateReport : public testing::Test {
 protected:
  explicit AblateReport(const std::string& more = "")
      : plan(make_plan(
            input.write("a.yaml",
                        "question: Is <b> better & \"faster\" | than a?\nbase: " +
                            std::string(std::getenv("WUNENG_SOURCE")) +
                            "/configs/tiny.yaml\nvariants:\n  a: {}\n  b: {model.fusion.mode: gated}\n"
                            "  c: {model.fusion.mode: additive}\nseeds: [1, 2, 3]\nbudget: {steps: 2}\n" +
                            more),
            {})),
        folder(input.path() / "out") {
    folder.open(plan);
  }

  const PlannedRun& run(const std::string& name) const {
    return *std::ranges::find(plan.runs, name, &PlannedRun::name);
  }

  // A run of two steps of 512 tokens that ends with this validation loss; `more` goes into the last line.
  void write_run(const std::string& name, double loss, bool finished = true,
                 const std::string& more = "") const {
    const std::filesystem::path train = folder.train(run(name));
    std::filesystem::create_directories(train);
    std::string text;
    for (int step = 1; step <= 2; ++step)
      text += fmt::format(
          R"({{"step":{},"samples":{},"tokens":{},"loss":{},"grad_norm":1.0,"lr":0.1,"tokens_per_second":{},"step_seconds":0.25}})"
          "\n",
          step, 8 * step, 512 * step, loss + 1.0 / step, 1000.0 * step);
    text += fmt::format(R"({{"step":2,"validation_loss":{},"validation_tokens":100{}}})"
                        "\n",
                        loss, more);
    write_file_atomically(train / "metrics.jsonl", text);
    if (!finished) return;
    CheckpointInfo info;
    info.position = {.step = 2, .samples = 16, .tokens = 1024};
    save_checkpoint(train / "checkpoints", info, {}, {});
    folder.write_record(run(name), {0, "", std::int64_t{300} << 20, 1.5, 1});
  }

  // c differs from a by -0.02, -0.021, -0.022; b by much more from seed to seed.
  void write_all() const {
    const double a[] = {2.0, 2.3, 1.9}, b[] = {2.1, 2.0, 2.2};
    for (int s = 0; s < 3; ++s) {
      write_run(fmt::format("a-seed{}", s + 1), a[s]);
      write_run(fmt::format("b-seed{}", s + 1), b[s]);
      write_run(fmt::format("c-seed{}", s + 1), a[s] - 0.02 - 0.001 * s);
    }
  }

  ReportData data() const { return read_report_data(plan, folder); }

  ConfigFolder input;
  Plan plan;
  Folder folder;
};

TEST_F(AblateReport, DifferencesArePairedBySeed) {
  write_all();
  const Summary summary = data().summary;
  // a: mean 62/30; deviations -1/15, 7/30, -1/6: variance (1/225 + 49/900 + 1/36) / 2.
  const Comparison& a = summary.variants[0].comparisons[0];
  EXPECT_NEAR(a.value.mean, 62.0 / 30.0, 1e-12);
  EXPECT_NEAR(a.value.half_width, t_of_two * std::sqrt((1.0 / 225 + 49.0 / 900 + 1.0 / 36) / 2.0 / 3.0),
              1e-9);
  EXPECT_NEAR(a.value.range, 0.4, 1e-12);
  EXPECT_EQ(a.difference.count, 0);
  // c: differences of standard deviation 0.001, although its values spread as much as a's.
  const Comparison& c = summary.variants[2].comparisons[0];
  EXPECT_NEAR(c.difference.mean, -0.021, 1e-12);
  EXPECT_NEAR(c.difference.half_width, t_of_two * 0.001 / std::sqrt(3.0), 1e-9);
  EXPECT_EQ(c.verdict, Verdict::better);
  // b: differences 0.1, -0.3, 0.3.
  const Comparison& b = summary.variants[1].comparisons[0];
  EXPECT_NEAR(b.difference.mean, 0.1 / 3.0, 1e-12);
  EXPECT_EQ(b.verdict, Verdict::indistinguishable);
  EXPECT_GT(b.corrected_p, b.difference.p * 0.999);
  EXPECT_NEAR(c.corrected_p, 2.0 * c.difference.p, 1e-12);  // the smaller of two
}

TEST_F(AblateReport, TheTextsSayWhatTheNumbersAre) {
  write_all();
  const std::string text = report_markdown(data());
  EXPECT_THAT(text,
              AllOf(HasSubstr("# Is <b> better"), HasSubstr("9 of 9 runs finished"),
                    HasSubstr("c: better than a; validation_loss differs by -0.0210 nats (95 % interval "
                              "-0.0235 to -0.0185, 3 seeds)"),
                    HasSubstr("b: not distinguishable from a"), HasSubstr("0.005 nats")));
  EXPECT_THAT(text,
              AllOf(HasSubstr("| 2.0667 ± "), HasSubstr("300 MiB"), HasSubstr("model.fusion.mode=gated"),
                    HasSubstr(fmt::format("model.ffn.hidden={}",
                                          plan.variants[1].config.model.feed_forward.hidden))));
  EXPECT_THAT(text, Not(HasSubstr("not finished")));
}

TEST_F(AblateReport, FewerThanThreeSeedsCannotTell) {
  for (const char* name : {"a-seed1", "a-seed2", "a-seed3"}) write_run(name, 2.0);
  write_run("b-seed1", 1.0);
  write_run("b-seed3", 1.1);
  write_run("c-seed2", 1.0, /*finished=*/false);  // its last value is none of a finished run
  const ReportData read = data();
  const std::string text = report_markdown(read);
  EXPECT_THAT(text,
              AllOf(HasSubstr("b: cannot tell; 2 seeds of it and of a ended, and it takes 3"),
                    HasSubstr("c: cannot tell; no seed of it and of a has ended."),
                    HasSubstr("| c-seed2 | unfinished | 2 of 2 |"), HasSubstr("| c-seed1 | waiting |")));
  EXPECT_THAT(report_html(read), AllOf(HasSubstr("cannot tell"), HasSubstr("c-seed2")));
}

TEST_F(AblateReport, AFailedRunIsNamedWithItsReason) {
  write_all();
  std::filesystem::remove_all(folder.train(run("b-seed2")));
  folder.write_record(run("b-seed2"), {1, "step 7: loss nan | the run has diverged", 0, 1.0, 1});
  EXPECT_THAT(report_markdown(data()),
              HasSubstr("| b-seed2 | failed | 0 of 2 | step 7: loss nan \\| the run has diverged |"));
  EXPECT_THAT(results_csv(data()), HasSubstr("b-seed2,b,2,failed,step 7: loss nan | the run has diverged,"));
}

TEST_F(AblateReport, ResultsHoldEveryEvaluationToTheLastBit) {
  write_all();
  write_run("a-seed1", 0.1 + 0.2);
  write_report(data(), folder);
  std::istringstream lines(read_text(folder.path() / "results.jsonl"));
  std::size_t rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) {
    const Json row = Json::parse(line);
    EXPECT_EQ(row["step"], 2);
    EXPECT_EQ(row["tokens"], 1024.0);
    EXPECT_EQ(row["seconds"], 0.5);
    if (row["run"] == "a-seed1") {
      EXPECT_EQ(row["validation_loss"].get<double>(), 0.1 + 0.2);
    }
    if (row["variant"] == "a") {
      EXPECT_EQ(row["flops"].get<double>(), 1024.0 * plan.variants[0].flops_per_token);
    }
  }
  EXPECT_EQ(rows, 9u);
  const std::string csv = read_text(folder.path() / "results.csv");
  EXPECT_EQ(std::ranges::count(csv, '\n'), 10);
  EXPECT_THAT(csv, HasSubstr("0.30000000000000004"));
}

// Derived files carry nothing of their own: cut or gone, they come back.
TEST_F(AblateReport, DamagedResultsAreWrittenAnew) {
  write_all();
  write_report(data(), folder);
  const std::string whole = read_text(folder.path() / "results.jsonl");
  write_file_atomically(folder.path() / "results.jsonl", whole.substr(0, whole.size() / 2));
  std::filesystem::remove(folder.path() / "report.html");
  write_report(data(), folder);
  EXPECT_EQ(read_text(folder.path() / "results.jsonl"), whole);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "report.html"));
}

TEST_F(AblateReport, ACutLastLineIsLeftOutAndADamagedOneIsNamed) {
  write_all();
  const std::filesystem::path file = folder.metrics(run("a-seed1"));
  const std::string whole = read_text(file);
  write_file_atomically(file, whole.substr(0, whole.size() - 9));
  const ReportData cut = data();
  EXPECT_EQ(cut.results[0].training.size(), 2u);
  EXPECT_TRUE(cut.results[0].evaluations.empty());
  write_file_atomically(file, "{\"step\":1,\n" + whole);
  const ReportData damaged = data();
  EXPECT_EQ(damaged.results[0].status, RunStatus::failed);
  EXPECT_THAT(damaged.results[0].message, AllOf(HasSubstr("metrics.jsonl:1"), HasSubstr("remove")));
  EXPECT_EQ(damaged.results[1].status, RunStatus::finished);  // the others are read all the same
}

// The page is XML as well: every element is closed, in order, and nothing points outside.
void expect_well_formed(const std::string& html) {
  std::vector<std::string> open;
  const std::regex tag(R"(<(/?)([a-zA-Z0-9]+)((?:\s+[-a-zA-Z0-9:]+="[^"<]*")*)\s*(/?)>)");
  std::size_t angles = 0;
  for (auto at = std::sregex_iterator(html.begin(), html.end(), tag); at != std::sregex_iterator(); ++at) {
    ++angles;
    const std::string name = (*at)[2];
    if ((*at)[1].length() > 0) {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), name);
      open.pop_back();
    } else if ((*at)[4].length() == 0) {
      open.push_back(name);
    }
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(std::ranges::count(html, '<'), static_cast<std::ptrdiff_t>(angles) + 1);  // and <!DOCTYPE html>
  EXPECT_THAT(html, AllOf(Not(HasSubstr("http")), Not(HasSubstr("src=")), Not(HasSubstr("@import")),
                          Not(HasSubstr("<script")), Not(HasSubstr("<link")), Not(HasSubstr("nan")),
                          Not(HasSubstr("inf"))));
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t number = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++number;
  return number;
}

TEST_F(AblateReport, ThePageStandsAlone) {
  write_all();
  const std::string html = report_html(data());
  expect_well_formed(html);
  EXPECT_THAT(html, AllOf(HasSubstr("Is &lt;b&gt; better &amp; &quot;faster&quot;"),
                          HasSubstr("prefers-color-scheme:dark"), HasSubstr("@media print")));
  EXPECT_EQ(count(html, "<svg"), 7u);        // differences; validation and training loss on three axes each
  EXPECT_EQ(count(html, "<polyline"), 18u);  // three variants in six of them
}

TEST_F(AblateReport, APageWithoutAnyResultIsOneToo) { expect_well_formed(report_html(data())); }

TEST_F(AblateReport, CurvesAreMeansWithTheRangeOfTheSeeds) {
  write_all();
  const ReportData read = data();
  const Curve curve = validation_curve(plan, read.results, 0, {"validation_loss"}, Axis::flops);
  ASSERT_EQ(curve.size(), 1u);
  EXPECT_DOUBLE_EQ(curve[0].x, 1024.0 * plan.variants[0].flops_per_token);
  EXPECT_NEAR(curve[0].mean, 62.0 / 30.0, 1e-12);
  EXPECT_EQ(curve[0].low, 1.9);
  EXPECT_EQ(curve[0].high, 2.3);
  const Curve training = training_curve(plan, read.results, 0, Axis::seconds, 60);
  ASSERT_EQ(training.size(), 2u);
  EXPECT_DOUBLE_EQ(training[0].x, 0.25);
  EXPECT_NEAR(training[1].mean, 62.0 / 30.0 + 0.5, 1e-12);
  const Curve halves = training_curve(plan, read.results, 0, Axis::tokens, 1);
  ASSERT_EQ(halves.size(), 1u);
  EXPECT_NEAR(halves[0].mean, 62.0 / 30.0 + 0.75, 1e-12);
}

class AblateTaskReport : public AblateReport {
 protected:
  AblateTaskReport() : AblateReport("metrics: [accuracy, accuracy@128]\n") {}
};

TEST_F(AblateTaskReport, AccuraciesAreTabulatedAndJudgedByLength) {
  const auto accuracy = [](double at_64, double at_128) {
    return fmt::format(R"(,"accuracy":{{"64":{},"128":{}}},"accuracy_moved":{{"64":0.5}})", at_64, at_128);
  };
  for (int s = 1; s <= 3; ++s) {
    write_run(fmt::format("a-seed{}", s), 1.0, true, accuracy(0.9, 0.50 + 0.001 * s));
    write_run(fmt::format("b-seed{}", s), 1.0, true, accuracy(0.9, 0.70));
    write_run(fmt::format("c-seed{}", s), 1.0, true,
              accuracy(0.9, 0.505 + 0.001 * s));  // below a point: noise
  }
  const ReportData read = data();
  EXPECT_EQ(read.summary.variants[1].comparisons[1].verdict, Verdict::better);
  EXPECT_NEAR(read.summary.variants[1].comparisons[1].difference.mean, 0.198, 1e-9);
  EXPECT_NEAR(read.summary.variants[1].comparisons[0].difference.mean, 0.099,
              1e-9);  // half of the mean is equal
  EXPECT_EQ(read.summary.variants[2].comparisons[1].verdict, Verdict::indistinguishable);
  const std::string text = report_markdown(read);
  EXPECT_THAT(text,
              AllOf(HasSubstr("| variant | accuracy@64 | accuracy@128 | accuracy_moved@64 |"),
                    HasSubstr("| a | 90.0 (90.0 to 90.0) | 50.2 (50.1 to 50.3) | 50.0 (50.0 to 50.0) |")));
  EXPECT_THAT(results_csv(read), HasSubstr("accuracy@64,accuracy@128,accuracy_moved@64"));
  const Curve curve = accuracy_by_length(plan, read.results, 1, "accuracy");
  ASSERT_EQ(curve.size(), 2u);
  EXPECT_EQ(curve[1].x, 128.0);
  EXPECT_NEAR(curve[1].mean, 0.70, 1e-12);
  const std::string html = report_html(read);
  expect_well_formed(html);
  EXPECT_THAT(html,
              AllOf(HasSubstr("accuracy at the end by length"), HasSubstr("accuracy_moved at the end")));
}

// ---- what is shown while it runs ----

TEST(AblateLiveTable, ShowsAllRunsAndThoseThatRun) {
  LiveState state{.runs = 21, .finished = 5, .failed = 1, .seconds_left = 720.0};
  state.running.push_back(
      {"gated-seed1", ProgressLine::State{.step = 12, .steps = 60, .loss = 3.25, .seconds_per_step = 2.0}});
  state.running.push_back({"a-seed1", std::nullopt});
  const std::vector<std::string> lines = table_lines(state, 100);
  ASSERT_EQ(lines.size(), 3u);
  EXPECT_EQ(lines[0], "runs 5/21 done, 2 running, 1 failed  ETA 12m00s");
  EXPECT_THAT(lines[1], AllOf(HasSubstr("  gated-seed1  step 12/60 ["), HasSubstr("loss 3.250"),
                              HasSubstr("ETA 1m36s")));
  EXPECT_EQ(lines[2], "  a-seed1      starting");
  for (int columns = 0; columns < 120; ++columns)
    for (const std::string& line : table_lines(state, columns))
      EXPECT_LE(line.size(), static_cast<std::size_t>(columns));
}

}  // namespace
}  // namespace wuneng::trainer::ablate
