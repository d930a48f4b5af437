#include "trainer/signals.h"

#include <atomic>
#include <cerrno>
#include <cstring>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

constexpr std::array<int, 4> handled{SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

constexpr int save_bit = 1, stop_bit = 2, insisted_bit = 4;

// What arrived, as bits. A signal handler gets no argument of ours, so this has to be reachable without one;
// a lock-free atomic is all that it may touch.
std::atomic<int> received = 0;
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void on_signal(int signal) {
  if (signal == SIGUSR2) {
    received.fetch_or(save_bit);
    return;
  }
  const bool ends = signal == SIGTERM || signal == SIGINT;
  const int before = received.fetch_or(stop_bit | (ends ? insisted_bit : 0));
  if (!ends || !(before & insisted_bit)) return;
  // Delivered as soon as this handler returns.
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

SignalRequests::SignalRequests() {
  received = 0;
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // reads and writes go on as if nothing had happened
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < handled.size(); ++i)
    WN_CHECK(::sigaction(handled[i], &action, &former_[i]) == 0, "signal {}: cannot be handled: {}",
             handled[i], std::strerror(errno));
}

SignalRequests::~SignalRequests() {
  for (std::size_t i = 0; i < handled.size(); ++i) ::sigaction(handled[i], &former_[i], nullptr);
}

Request SignalRequests::take() {
  const int taken = received.fetch_and(~(save_bit | stop_bit));
  if (taken & stop_bit) return Request::save_and_stop;
  return taken & save_bit ? Request::save : Request::none;
}

bool end_was_asked() { return received & insisted_bit; }

}  // namespace wuneng::trainer
