#include "trainer/progress.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <limits>

namespace wuneng::trainer {
namespace {

using testing::AllOf;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr std::int64_t gib = std::int64_t{1} << 30;

ProgressLine::State middle() {
  return {.step = 120,
          .steps = 600,
          .loss = 3.2141,
          .tokens_per_second = 2100,
          .flops_per_second = 84e9,
          .seconds_per_step = 0.4};
}

TEST(Progress, AllFieldsStandWhereThereIsRoom) {
  EXPECT_EQ(progress_text(middle(), gib * 12 / 10, 120),
            "step 120/600 [====>                 ] loss 3.214  2.1k tok/s  84 GFLOP/s  1.2 GiB  ETA 3m12s");
}

TEST(Progress, TheBarFillsFromEmptyToFull) {
  const auto bar = [](std::int64_t step, std::int64_t steps) {
    ProgressLine::State state = middle();
    state.step = step;
    state.steps = steps;
    const std::string text = progress_text(state, 0, 200);
    return text.substr(text.find('['), text.find(']') - text.find('[') + 1);
  };
  EXPECT_EQ(bar(0, 600), "[>                     ]");
  EXPECT_EQ(bar(300, 600), "[===========>          ]");
  EXPECT_EQ(bar(599, 600), "[=====================>]");
  EXPECT_EQ(bar(600, 600), "[======================]");
  EXPECT_EQ(bar(700, 600), "[======================]");
  EXPECT_EQ(bar(0, 0), "[>                     ]");
}

TEST(Progress, NeverWiderThanItsRoom) {
  ProgressLine::State large = middle();
  large.step = large.steps = std::numeric_limits<std::int64_t>::max();
  large.loss = -1e300;
  large.tokens_per_second = large.flops_per_second = 1e30;
  for (const ProgressLine::State& state : {middle(), large, ProgressLine::State{}})
    for (int columns = -1; columns < 400; ++columns)
      ASSERT_LE(progress_text(state, gib, columns).size(), static_cast<std::size_t>(std::max(0, columns)));
}

TEST(Progress, GivesUpFieldsInTheOrderOfTheirWorth) {
  const char* order[] = {"[", "GiB", "GFLOP/s", "tok/s", "ETA", "loss", "step 120/600"};
  std::size_t gone = 0;
  for (int columns = 199; columns >= 12; --columns) {
    const std::string text = progress_text(middle(), gib, columns);
    while (gone < std::size(order) && text.find(order[gone]) == std::string::npos) ++gone;
    for (std::size_t i = 0; i < std::size(order); ++i)
      ASSERT_EQ(text.find(order[i]) != std::string::npos, i >= gone)
          << order[i] << " at " << columns << ": " << text;
  }
  EXPECT_EQ(gone, std::size(order) - 1);
}

std::string eta(double seconds) {
  const std::string text = progress_text({.step = 0, .steps = 1, .seconds_per_step = seconds}, 0, 200);
  return text.substr(text.find("ETA ") + 4);
}

TEST(Progress, TimeLeft) {
  EXPECT_EQ(eta(0), "0s");
  EXPECT_EQ(eta(59.4), "59s");
  EXPECT_EQ(eta(59.6), "1m00s");
  EXPECT_EQ(eta(3599), "59m59s");
  EXPECT_EQ(eta(3600), "1h00m");
  EXPECT_EQ(eta(86400), "1d00h");
  EXPECT_EQ(eta(2 * 3600 + 5 * 60 + 59), "2h05m");
  EXPECT_EQ(eta(86400 * 3 + 3600 * 4 + 5), "3d04h");
  EXPECT_EQ(eta(86400 * 400.0), "400d00h");
  EXPECT_EQ(eta(1e12), "?");
  EXPECT_EQ(eta(std::numeric_limits<double>::quiet_NaN()), "?");
}

TEST(Progress, Numbers) {
  const auto text = [](double tokens_per_second, double flops, std::int64_t memory) {
    return progress_text(
        {.step = 1, .steps = 2, .tokens_per_second = tokens_per_second, .flops_per_second = flops}, memory,
        200);
  };
  EXPECT_THAT(text(5, 84e6, gib / 4),
              AllOf(HasSubstr("  5 tok/s"), HasSubstr("  84 MFLOP/s"), HasSubstr("  256 MiB")));
  EXPECT_THAT(text(0.25, 999.4e9, 24 * gib),
              AllOf(HasSubstr("  0.2 tok/s"), HasSubstr("  999 GFLOP/s"), HasSubstr("  24 GiB")));
  EXPECT_THAT(text(999.6, 999.6e9, 999 * gib + gib / 2),
              AllOf(HasSubstr("  1.0k tok/s"), HasSubstr("  1.0 TFLOP/s"), HasSubstr("  1.0 TiB")));
  EXPECT_THAT(text(9.96e6, 1.3e15, 0),
              AllOf(HasSubstr("  10M tok/s"), HasSubstr("  1.3 PFLOP/s"), Not(HasSubstr("iB"))));
  EXPECT_THAT(text(std::numeric_limits<double>::infinity(), 0, 0), HasSubstr("  inf tok/s"));
}

// Standard error on a terminal of 90 columns; what the terminal got.
class Terminal {
 public:
  Terminal() : saved_(::dup(STDERR_FILENO)) {
    winsize size{};
    size.ws_col = 90;
    size.ws_row = 24;
    int inner = -1;
    EXPECT_EQ(::openpty(&outer_, &inner, nullptr, nullptr, &size), 0);
    ::dup2(inner, STDERR_FILENO);
    ::close(inner);
  }
  ~Terminal() {
    restore();
    ::close(outer_);
  }
  std::string text() {
    restore();
    std::string all;
    char buffer[4096];
    for (ssize_t n; (n = ::read(outer_, buffer, sizeof buffer)) > 0;)
      all.append(buffer, static_cast<std::size_t>(n));
    return all;
  }

 private:
  void restore() {
    if (saved_ < 0) return;
    ::dup2(saved_, STDERR_FILENO);
    ::close(std::exchange(saved_, -1));
  }
  int saved_, outer_ = -1;
};

bool has_terminals() {  // a container without /dev/pts has none
  int outer = -1, inner = -1;
  if (::openpty(&outer, &inner, nullptr, nullptr, nullptr) != 0) return false;
  ::close(outer);
  ::close(inner);
  return true;
}

TEST(Progress, OverwritesItselfOnATerminalAndLeavesItClean) {
  if (!has_terminals()) GTEST_SKIP() << "no pseudo-terminal can be opened here: mount devpts on /dev/pts";
  Terminal terminal;
  {
    ProgressLine line(true, false);
    ProgressLine::State state = middle();
    line.show(state);
    state.step = 600;
    line.show(state);
  }
  const std::string text = terminal.text();
  EXPECT_THAT(text, AllOf(StartsWith("\r\x1b[Kstep 120/600"), HasSubstr("\r\x1b[Kstep 600/600"),
                          EndsWith("\r\x1b[K")));
  EXPECT_THAT(text, HasSubstr("iB"));
  EXPECT_THAT(text, Not(HasSubstr("\n")));
  std::size_t widest = 0;
  for (std::size_t begin = text.find("step"); begin != std::string::npos;
       begin = text.find("step", begin + 1))
    widest = std::max(widest, text.find('\r', begin) - begin);
  EXPECT_GT(widest, 80U);
  EXPECT_LT(widest, 90U);
}

TEST(Progress, ShowsNothingElsewhere) {
  testing::internal::CaptureStderr();  // a file
  {
    ProgressLine to_file(true, false), other_rank(false, true);
    to_file.show(middle());
    other_rank.show(middle());
    to_file.clear();
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  testing::internal::CaptureStderr();
  { ProgressLine(true, true).show(middle()); }
  EXPECT_THAT(testing::internal::GetCapturedStderr(),
              AllOf(HasSubstr("step 120/600"), HasSubstr("loss 3.214"), EndsWith("\r\x1b[K")));
}

TEST(Progress, TheEstimateForgivesOneSlowStep) {
  testing::internal::CaptureStderr();
  {
    ProgressLine line(true, true);
    ProgressLine::State state{.step = 999, .steps = 2000, .seconds_per_step = 1.0};
    line.show(state);
    line.clear();
    state.step = 1000;
    state.seconds_per_step = 11.0;
    line.show(state);
    state.step = 2000;
    line.show(state);
  }
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, AllOf(HasSubstr("ETA 16m41s"), HasSubstr("ETA 33m20s")));
  EXPECT_THAT(text, EndsWith("ETA 0s\r\x1b[K"));
}

}  // namespace
}  // namespace wuneng::trainer
