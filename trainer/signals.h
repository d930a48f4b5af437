// Signals of a run: USR1, TERM and INT ask for "save and stop", USR2 for "save and go on". The handler only
// sets a flag; the loop reads it between steps and agrees on it with the other ranks. A second TERM or INT
// ends the process at once.
#pragma once

#include <array>
#include <csignal>

namespace wuneng::trainer {

enum class Request : int { none = 0, save = 1, save_and_stop = 2 };

// Installs the handlers for its life and restores the former ones. Signals belong to the process: there is
// one such object at a time.
class SignalRequests {
 public:
  SignalRequests();
  ~SignalRequests();
  SignalRequests(const SignalRequests&) = delete;
  SignalRequests& operator=(const SignalRequests&) = delete;

  // The strongest request since the last call, which this call takes.
  Request take();

 private:
  std::array<struct sigaction, 4> former_;  // in the order of the table in the .cpp
};

// Whether TERM or INT has come since a SignalRequests was made; taking the request does not forget it. For
// any thread.
bool end_was_asked();

}  // namespace wuneng::trainer
