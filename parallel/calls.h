// What this rank's communicators are doing, and did last: for messages about a job that is stuck or dies.
#pragma once

#include <pthread.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// Written by the threads that communicate, read by any thread and by signal handlers: a ring of the last
// calls, without locks. As all ranks make the same calls in the same order, the number of a call says which
// rank lags behind.
class Calls {
 public:
  // `name` is a string literal. Returns the number of the call, from 1.
  std::uint64_t begin(const char* name, std::int64_t bytes, int ranks);
  void end(std::uint64_t number);

  // Moves as long as calls begin and end.
  std::uint64_t events() const { return begun_.load() + ended_.load(); }
  bool in_call() const;  // one has begun and has not ended

  // Those whose calls have begun and have not ended.
  std::vector<pthread_t> threads_in_calls() const;

  // "in all_to_all of 1.0 MiB among 4 ranks (call 41) for 12.3 s" or "last in ... 0.2 s ago", or nothing
  // before the first call; without the times, equal texts mean the same place. The form with a buffer, which
  // returns the length and writes no terminating zero, is safe in a signal handler.
  std::size_t describe(char* buffer, std::size_t size, bool with_time) const;
  std::string describe(bool with_time = true) const;

 private:
  struct Call {
    std::atomic<std::uint64_t> number = 0;  // 0: none yet
    std::atomic<const char*> name = nullptr;
    std::atomic<std::int64_t> bytes = 0, begin = 0, end = 0;  // times in ns; end 0: not yet
    std::atomic<int> ranks = 0;
    std::atomic<pthread_t> thread = {};
  };
  const Call* most_telling() const;

  std::array<Call, 16> calls_;
  std::atomic<std::uint64_t> begun_ = 0, ended_ = 0;
};

// The same communicator, its calls noted in `calls`, which must outlive it and what is split from it.
std::unique_ptr<Communicator> make_recorded(std::unique_ptr<Communicator> inner, Calls& calls);

}  // namespace wuneng::parallel
