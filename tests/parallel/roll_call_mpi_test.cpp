#include "parallel/roll_call.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/support/world.h"

namespace wuneng::parallel {
namespace {

using namespace std::chrono_literals;
using tests::world;

std::string words_of(int rank) { return "I am rank " + std::to_string(rank); }

// A thread that answers for its rank, as the watchdog does.
class Answerer {
 public:
  Answerer(RollCall& roll_call, std::string words)
      : thread_([this, &roll_call, words = std::move(words)] {
          while (!done_) {
            roll_call.answer(words);
            std::this_thread::yield();
          }
        }) {}
  ~Answerer() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

TEST(RollCall, ThreadsAnswerWhileMainThreadsWaitInACollective) {
  RollCall roll_call(world());
  for (int asker = 0; asker < world().size(); ++asker) {
    if (world().rank() == asker) {
      const std::vector<std::string> words = roll_call.ask(words_of(asker), 60s);
      for (int r = 0; r < world().size(); ++r) EXPECT_EQ(words[r], words_of(r));
      world().communicator().barrier();
    } else {
      const Answerer answerer(roll_call, words_of(world().rank()));
      world().communicator().barrier();
    }
  }
}

TEST(RollCall, ThoseWhoAskAtOnceAnswerEachOther) {
  RollCall roll_call(world());
  const std::vector<std::string> words = roll_call.ask(words_of(world().rank()), 60s);
  const Answerer answerer(roll_call, words_of(world().rank()));  // some others may still ask
  for (int r = 0; r < world().size(); ++r) EXPECT_EQ(words[r], words_of(r));
  world().communicator().barrier();
}

TEST(RollCall, SilenceIsEmpty) {
  RollCall roll_call(world());
  if (world().rank() == 0) {
    const std::vector<std::string> words = roll_call.ask("mine", 10ms);
    EXPECT_EQ(words[0], "mine");
    for (int r = 1; r < world().size(); ++r) EXPECT_EQ(words[r], "");
  }
  world().communicator().barrier();
}

}  // namespace
}  // namespace wuneng::parallel
