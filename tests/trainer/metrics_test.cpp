#include "trainer/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng::trainer {
namespace {

using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;

constexpr std::int64_t all = std::numeric_limits<std::int64_t>::max();

// A new file each time: overwriting one makes some file systems wait for the disk.
void put(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::remove(path);
  OutputFile(path).write(text);
}

// What is left of `before` for a run that goes on from `last_step`.
std::string reopened(const std::string& before, std::int64_t last_step) {
  const Scratch scratch;
  put(scratch / "metrics.jsonl", before);
  { const MetricsFile metrics(scratch / "metrics.jsonl", last_step); }
  return read_text(scratch / "metrics.jsonl");
}

TEST(Metrics, LinesAreWrittenInOrderAndVisibleAtOnce) {
  const Scratch scratch;
  MetricsFile metrics(scratch / "metrics.jsonl", 0);
  metrics.write({{"step", 1}, {"loss", 2.5}});
  EXPECT_EQ(read_text(scratch / "metrics.jsonl"), "{\"step\":1,\"loss\":2.5}\n");
  metrics.write({{"step", 1}, {"validation_loss", 2.25}, {"validation_tokens", 64}});
  EXPECT_EQ(read_text(scratch / "metrics.jsonl"),
            "{\"step\":1,\"loss\":2.5}\n{\"step\":1,\"validation_loss\":2.25,\"validation_tokens\":64}\n");
}

TEST(Metrics, FloatsRoundTripAndTheNotFiniteBecomeNull) {
  const Scratch scratch;
  MetricsFile metrics(scratch / "metrics.jsonl", 0);
  const double values[] = {0.1, 1.0 / 3.0, 5e-324, 1.7976931348623157e308, -0.0, 3.0, 1e22};
  Json line{{"step", 1}, {"nan", std::nan("")}, {"infinite", -std::numeric_limits<double>::infinity()}};
  for (const double value : values) line["values"].push_back(value);
  metrics.write(line);
  const Json read = Json::parse(read_text(scratch / "metrics.jsonl"));
  EXPECT_TRUE(read["nan"].is_null());
  EXPECT_TRUE(read["infinite"].is_null());
  for (std::size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(read["values"][i].get<double>(), values[i]);
    EXPECT_EQ(std::signbit(read["values"][i].get<double>()), std::signbit(values[i]));
  }
}

TEST(Metrics, LinesThatTheRunWillWriteAgainAreDropped) {
  const std::string lines =
      "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"validation_loss\":1.5}\n{\"step\":3}\n{\"step\":10}\n";
  EXPECT_EQ(reopened(lines, 2), "{\"step\":1}\n{\"step\":2}\n{\"step\":2,\"validation_loss\":1.5}\n");
  EXPECT_EQ(reopened(lines, 0), "");
  EXPECT_EQ(reopened(lines, 10), lines);
  EXPECT_EQ(reopened("", 10), "");
}

TEST(Metrics, ALastLineThatWasCutIsDropped) {
  const std::string whole = "{\"step\":1,\"loss\":2.5}\n", next = "{\"step\":2,\"loss\":-1.25e-3}";
  for (std::size_t length = 0; length < next.size(); ++length)
    EXPECT_EQ(reopened(whole + next.substr(0, length), all), whole) << length;
  EXPECT_EQ(reopened(whole + next, all), whole + next + "\n") << "only the end of the line was cut";
  EXPECT_EQ(reopened(whole + std::string(100, '\0'), all), whole);
}

TEST(Metrics, WritingGoesOnAfterWhatIsKept) {
  const Scratch scratch;
  put(scratch / "metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n{\"st");
  MetricsFile metrics(scratch / "metrics.jsonl", 1);
  metrics.write({{"step", 2}, {"loss", 0.5}});
  EXPECT_EQ(read_text(scratch / "metrics.jsonl"), "{\"step\":1}\n{\"step\":2,\"loss\":0.5}\n");
}

TEST(Metrics, AnyOtherDamageIsRefusedWithTheLine) {
  const Scratch scratch;
  for (const char* damaged :
       {"{\"st\n", "\n", "[1]\n", "7\n", "{\"loss\":1}\n", "{\"step\":\"1\"}\n", "{\"step\":1.5}\n"}) {
    put(scratch / "metrics.jsonl", std::string("{\"step\":1}\n") + damaged + "{\"step\":2}\n");
    EXPECT_THAT(message_of<UsageError>([&] { MetricsFile(scratch / "metrics.jsonl", all); }),
                HasSubstr("metrics.jsonl:2: is not a JSON object with a step; remove the line"))
        << damaged;
  }
}

TEST(Metrics, ALineNeedsAStep) {
  const Scratch scratch;
  MetricsFile metrics(scratch / "metrics.jsonl", 0);
  EXPECT_THAT(message_of<Error>([&] { metrics.write({{"loss", 1.0}}); }), HasSubstr("without a step"));
}

}  // namespace
}  // namespace wuneng::trainer
