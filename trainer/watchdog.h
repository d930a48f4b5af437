// Ends a job that makes no progress, and says where each rank is.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/stack.h"
#include "parallel/roll_call.h"
#include "parallel/world.h"
#include "trainer/activity.h"
#include "trainer/config.h"

namespace wuneng::trainer {

// A thread that looks at this rank's activity and collectives. When neither has changed for longer than the
// limit of the phase, it prints where the rank is and the stacks of its main thread and of threads that are
// in collectives, asks the other ranks where they are, prints that, and ends the job with exit code 1. A rank
// that is asked answers from its own such thread, so silence means that its process is stopped, dead or cut
// off.
class Watchdog {
 public:
  // All ranks make theirs together, each on its main thread, which is the one watched. `grace`: seconds that
  // a process lives on that was told to end (TERM or INT); 0: any time.
  Watchdog(const StuckAfterConfig& limits, std::int64_t grace, parallel::World& world,
           const Activity& activity);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  using Seconds = std::chrono::duration<double>;
  struct Limit {
    const char* key;  // its name below trainer.stuck_after
    Seconds seconds;  // 0: none
  };

  void watch();
  Limit limit() const;
  std::string place(bool with_time) const;  // "step 3, forward; last in all_gather of 16 bytes ..."
  void tell_of_the_end();
  void end_the_job(const std::string& why);
  void print_own(const std::string& what);
  void print_others(const std::vector<std::string>& words) const;
  bool a_host_is_silent(const std::vector<std::string>& words) const;

  StuckAfterConfig limits_;
  Seconds grace_;
  parallel::World& world_;
  const Activity& activity_;
  std::vector<std::string> hosts_;  // by rank
  parallel::RollCall roll_call_;
  StackTaker stacks_;
  pthread_t main_thread_;
  std::optional<std::chrono::steady_clock::time_point> told_;  // when this process was told to end
  bool asked_ = false;                                         // by another rank
  bool printed_ = false;                                       // where this rank is

  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace wuneng::trainer
