#include "parallel/calls.h"

#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>

#include <thread>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

using testing::MatchesRegex;

TEST(Calls, SayNothingBeforeTheFirst) {
  const Calls calls;
  EXPECT_EQ(calls.describe(), "");
  EXPECT_FALSE(calls.in_call());
}

TEST(Calls, TellWhatIsGoingOnAndWhatWasLast) {
  Calls calls;
  const auto number = calls.begin("all_to_all", 3 << 19, 4);
  EXPECT_TRUE(calls.in_call());
  EXPECT_EQ(calls.describe(false), "in all_to_all of 1.5 MiB among 4 ranks (call 1)");
  EXPECT_THAT(calls.describe(), MatchesRegex("in all_to_all .* for [0-9.]+ s"));
  calls.end(number);
  EXPECT_FALSE(calls.in_call());
  EXPECT_EQ(calls.describe(false), "last in all_to_all of 1.5 MiB among 4 ranks (call 1)");
  EXPECT_THAT(calls.describe(), MatchesRegex("last in all_to_all .* [0-9.]+ s ago"));
}

TEST(Calls, TheOldestThatHasNotEndedIsTold) {
  Calls calls;
  calls.end(calls.begin("barrier", 0, 2));
  calls.begin("all_gather", 16, 2);
  calls.end(calls.begin("broadcast", 16, 2));  // of another thread
  EXPECT_EQ(calls.describe(false), "in all_gather of 16 bytes among 2 ranks (call 2)");
}

TEST(Calls, AShortBufferIsFilledAndNotOverrun) {
  Calls calls;
  calls.begin("all_gather", 16, 2);
  char buffer[8] = "zzzzzzz";
  EXPECT_EQ(calls.describe(buffer, 5, true), 5u);
  EXPECT_STREQ(buffer, "in alzz");
}

TEST(Calls, ARecordedCommunicatorNotesItsCallsAndThoseOfItsParts) {
  Calls calls;
  const auto group = make_recorded(make_single(), calls);
  group->barrier();
  EXPECT_EQ(calls.describe(false), "last in barrier among 1 ranks (call 1)");
  const auto part = group->split(0);
  part->all_gather(at::zeros({2}), at::zeros({2}));
  EXPECT_EQ(calls.describe(false), "last in all_gather of 8 bytes among 1 ranks (call 3)");
  EXPECT_EQ(calls.events(), 6u);
}

TEST(Calls, ThreadsAreKnownWhileTheyAreInACall) {
  Calls calls;
  EXPECT_TRUE(calls.threads_in_calls().empty());
  const std::uint64_t mine = calls.begin("barrier", 0, 2);
  std::thread([&] { calls.begin("all_gather", 8, 2); }).join();
  ASSERT_EQ(calls.threads_in_calls().size(), 2u);
  calls.end(mine);
  ASSERT_EQ(calls.threads_in_calls().size(), 1u);
  EXPECT_FALSE(::pthread_equal(calls.threads_in_calls()[0], ::pthread_self()));
}

TEST(Calls, ManyThreadsMayCallWhileAnotherReads) {
  Calls calls;
  const auto work = [&] {
    for (int i = 0; i < 2000; ++i) calls.end(calls.begin("all_gather", i, 2));
  };
  std::thread first(work), second(work);
  for (int i = 0; i < 2000; ++i) {
    const std::string text = calls.describe();
    EXPECT_TRUE(text.empty() || text.find("all_gather") != std::string::npos) << text;
  }
  first.join();
  second.join();
  EXPECT_EQ(calls.events(), 8000u);
  EXPECT_FALSE(calls.in_call());
}

}  // namespace
}  // namespace wuneng::parallel
