// Last words of a process that crashes.
#pragma once

#include <array>
#include <csignal>
#include <memory>

#include "common/stack.h"
#include "parallel/world.h"
#include "trainer/activity.h"

namespace wuneng::trainer {

// For its life SIGSEGV, SIGBUS, SIGFPE, SIGILL and SIGABRT print rank, host, step, phase, the last collective
// and the stack, and then end the process by their default action, upon which the launcher ends the job. MPI
// installs such handlers too: this object comes after the World. One at a time.
class CrashReport {
 public:
  CrashReport(const parallel::World& world, const Activity& activity);
  ~CrashReport();
  CrashReport(const CrashReport&) = delete;
  CrashReport& operator=(const CrashReport&) = delete;

 private:
  std::array<struct sigaction, 5> former_;
  std::unique_ptr<char[]> handler_stack_;  // an overflow of the main thread's stack leaves no room on it
  stack_t former_stack_;
};

}  // namespace wuneng::trainer
