// What the clock asks of a run: checkpoints every so many minutes, and an end before its time is over.
#pragma once

#include <algorithm>

#include "trainer/config.h"
#include "trainer/signals.h"

namespace wuneng::trainer {

// Kept by one rank, whose request all ranks follow. Times are seconds since the start of the run.
class RunClock {
 public:
  explicit RunClock(const TrainerConfig& config)
      : limit_(static_cast<double>(config.time_limit)),
        interval_(60.0 * static_cast<double>(config.checkpoint.every_minutes)) {}

  // How long things took; the longest of each counts. A step includes its validation.
  void step_took(double seconds) { step_ = std::max(step_, seconds); }
  void save_took(double seconds) { save_ = std::max(save_, seconds); }
  void save_began(double now) { last_save_ = now; }

  // Twice the longest step and save so far are left for the last ones.
  bool time_is_up(double now) const { return limit_ > 0.0 && now + 2.0 * (step_ + save_) >= limit_; }
  Request request(double now) const {
    if (time_is_up(now)) return Request::save_and_stop;
    return interval_ > 0.0 && now - last_save_ >= interval_ ? Request::save : Request::none;
  }

 private:
  double limit_, interval_;
  double step_ = 0.0, save_ = 0.0, last_save_ = 0.0;
};

}  // namespace wuneng::trainer
