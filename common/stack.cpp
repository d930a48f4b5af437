#include "common/stack.h"

#include <execinfo.h>
#include <fmt/format.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "common/symbols.h"

namespace wuneng {
namespace {

// Where the interrupted thread leaves its stack. A signal handler gets no argument of ours.
Stack answer;
std::atomic<bool> answered = false;
struct sigaction former;

// Where the thread was; null on processors that this does not know.
void* instruction_of(const void* context) {
  const auto& machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__x86_64__)
  return reinterpret_cast<void*>(machine.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return reinterpret_cast<void*>(machine.pc);
#else
  static_cast<void>(machine);
  return nullptr;
#endif
}

extern "C" void on_question(int, siginfo_t*, void* context) {
  answer = StackTaker::interrupted(context);
  answered.store(true, std::memory_order_release);
}

}  // namespace

StackTaker::StackTaker() {
  here();
  struct sigaction action {};
  action.sa_sigaction = on_question;
  action.sa_flags = SA_RESTART | SA_SIGINFO;
  sigemptyset(&action.sa_mask);
  ::sigaction(SIGURG, &action, &former);
}

StackTaker::~StackTaker() { ::sigaction(SIGURG, &former, nullptr); }

Stack StackTaker::here() {
  Stack stack;
  stack.depth = ::backtrace(stack.frames.data(), static_cast<int>(stack.frames.size()));
  return stack;
}

Stack StackTaker::interrupted(const void* context) {
  Stack stack = here();
  const auto begin = stack.frames.begin(), end = begin + stack.depth;
  const auto first = std::find(begin, end, instruction_of(context));
  if (first == end) return stack;
  stack.depth = static_cast<int>(std::copy(first, end, begin) - begin);
  return stack;
}

Stack StackTaker::of(pthread_t thread) const {
  using namespace std::chrono_literals;
  answered = false;
  if (::pthread_kill(thread, SIGURG) != 0) return {};
  for (int wait = 0; wait < 100; ++wait) {
    if (answered.load(std::memory_order_acquire)) return answer;
    std::this_thread::sleep_for(10ms);
  }
  return {};
}

std::string to_text(const Stack& stack) {
  std::string text;
  for (int i = 0; i < stack.depth; ++i) {
    // A return address may lie behind the end of a function that never returns: name the call before it.
    const auto* call = static_cast<const char*>(stack.frames[static_cast<std::size_t>(i)]) - (i > 0 ? 1 : 0);
    text += fmt::format("  #{} {}\n", i, symbol_at(call));
  }
  return text;
}

}  // namespace wuneng
