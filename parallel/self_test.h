// What a job checks about its network before anything depends on it.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// One small collective of each kind, with answers known beforehand. Throws Error naming this rank, the
// collective, the place and both values when one of them differs here.
void self_test(Communicator& world, const std::string& host);

// Ends this process, and by that the job, with a message when it still lives after `seconds`: ranks that
// cannot reach each other would wait for ever inside their first calls.
class StartLimit {
 public:
  StartLimit(int seconds, std::string who);
  ~StartLimit();
  StartLimit(const StartLimit&) = delete;
  StartLimit& operator=(const StartLimit&) = delete;

 private:
  void watch(int seconds, const std::string& who);

  std::mutex mutex_;
  std::condition_variable changed_;
  bool reached_ = false;
  std::thread thread_;
};

}  // namespace wuneng::parallel
