#include "trainer/signals.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <thread>

namespace wuneng::trainer {
namespace {

using testing::ExitedWithCode;
using testing::KilledBySignal;

TEST(Signals, NothingIsRequestedAtFirst) {
  SignalRequests requests;
  EXPECT_EQ(requests.take(), Request::none);
}

TEST(Signals, EachSignalAsksOnce) {
  SignalRequests requests;
  const std::pair<int, Request> expected[] = {{SIGUSR1, Request::save_and_stop},
                                              {SIGUSR2, Request::save},
                                              {SIGTERM, Request::save_and_stop},
                                              {SIGUSR1, Request::save_and_stop}};
  for (const auto& [signal, request] : expected) {
    std::raise(signal);
    EXPECT_EQ(requests.take(), request) << signal;
    EXPECT_EQ(requests.take(), Request::none) << signal;
  }
}

TEST(Signals, InterruptAsksToStop) {
  SignalRequests requests;
  std::raise(SIGINT);
  EXPECT_EQ(requests.take(), Request::save_and_stop);
}

TEST(Signals, TheStrongestRequestWins) {
  SignalRequests requests;
  for (const int signal : {SIGUSR2, SIGUSR1, SIGUSR2}) std::raise(signal);
  EXPECT_EQ(requests.take(), Request::save_and_stop);
  EXPECT_EQ(requests.take(), Request::none);
}

TEST(Signals, ASecondRequestToEndKills) {
  const auto twice = [](int first, int second, bool take_between) {
    SignalRequests requests;
    std::raise(first);
    if (take_between) requests.take();
    std::raise(second);
    std::exit(0);
  };
  EXPECT_EXIT(twice(SIGTERM, SIGTERM, false), KilledBySignal(SIGTERM), "");
  EXPECT_EXIT(twice(SIGINT, SIGINT, true), KilledBySignal(SIGINT), "");
  EXPECT_EXIT(twice(SIGTERM, SIGINT, true), KilledBySignal(SIGINT), "");
  EXPECT_EXIT(twice(SIGUSR1, SIGTERM, false), ExitedWithCode(0), "");
  EXPECT_EXIT(twice(SIGUSR1, SIGUSR1, false), ExitedWithCode(0), "");
  EXPECT_EXIT(twice(SIGTERM, SIGUSR1, false), ExitedWithCode(0), "");
}

int seen = 0;

TEST(Signals, FormerHandlersComeBack) {
  const auto before = std::signal(SIGUSR1, [](int signal) { seen = signal; });
  { const SignalRequests requests; }
  std::raise(SIGUSR1);
  std::signal(SIGUSR1, before);
  EXPECT_EQ(seen, SIGUSR1);
}

TEST(Signals, ANewObjectForgetsWhatCameBefore) {
  {
    SignalRequests requests;
    std::raise(SIGTERM);
  }
  SignalRequests requests;
  EXPECT_EQ(requests.take(), Request::none);
  std::raise(SIGTERM);
  EXPECT_EQ(requests.take(), Request::save_and_stop);
}

TEST(Signals, BlockedSystemCallsGoOn) {
  SignalRequests requests;
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pthread_t reader = ::pthread_self();
  std::thread other([&] {
    ::pthread_kill(reader, SIGUSR2);
    EXPECT_EQ(::write(pipe_ends[1], "x", 1), 1);
  });
  char byte = 0;
  EXPECT_EQ(::read(pipe_ends[0], &byte, 1), 1);
  other.join();
  for (const int end : pipe_ends) ::close(end);
  EXPECT_EQ(requests.take(), Request::save);
}

}  // namespace
}  // namespace wuneng::trainer
