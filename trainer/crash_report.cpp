#include "trainer/crash_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace wuneng::trainer {
namespace {

constexpr std::array<int, 5> handled{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
constexpr std::size_t handler_stack_bytes = 256 << 10;

// What the handler tells of. A signal handler gets no argument of ours.
struct {
  std::array<char, 320> name;  // "rank 1 of 2 on host"
  std::size_t name_length = 0;
  const parallel::World* world = nullptr;
  const Activity* activity = nullptr;
} subject;

std::atomic<pid_t> crashed = 0;  // the thread that is telling

const char* describe(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV, a wrong address";
    case SIGBUS:
      return "SIGBUS: a file that is read as memory, such as the corpus, was cut, or its disk failed";
    case SIGFPE:
      return "SIGFPE, a wrong integer operation";
    case SIGILL:
      return "SIGILL: this processor lacks an instruction that the program was built for";
    default:
      return "SIGABRT";
  }
}

// Without allocating: the crash may be inside the allocator.
void print_headline(int signal) {
  char place[128], calls[256], line[1024];
  const std::size_t place_length = subject.activity->describe(place);
  const std::size_t calls_length = subject.world->calls().describe(calls, sizeof calls, /*with_time=*/true);
  const auto out = fmt::format_to_n(line, sizeof line, "wuneng: error: {}, {}: killed by {}{}{}\n",
                                    std::string_view(subject.name.data(), subject.name_length),
                                    std::string_view(place, place_length), describe(signal),
                                    calls_length > 0 ? "; " : "", std::string_view(calls, calls_length));
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, line, std::min(out.size, sizeof line));
}

void tell(int signal, const void* context) {
  print_headline(signal);
  // Names need memory, which waits for ever when the allocator is what crashed.
  std::signal(SIGALRM, SIG_DFL);
  ::alarm(3);
  const std::string stack = to_text(StackTaker::interrupted(context));
  [[maybe_unused]] const auto written = ::write(STDERR_FILENO, stack.data(), stack.size());
}

extern "C" void on_crash(int signal, siginfo_t*, void* context) {
  pid_t teller = 0;
  if (crashed.compare_exchange_strong(teller, ::gettid()))
    tell(signal, context);
  else
    while (teller != ::gettid()) ::pause();  // until that one ends the process; the same one crashed again
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

}  // namespace

CrashReport::CrashReport(const parallel::World& world, const Activity& activity)
    : handler_stack_(std::make_unique<char[]>(handler_stack_bytes)) {
  const std::string name = world.name();
  subject.name_length = std::min(name.size(), subject.name.size());
  std::copy_n(name.begin(), subject.name_length, subject.name.begin());
  subject.world = &world;
  subject.activity = &activity;
  StackTaker::here();  // loads what it needs
  const stack_t stack{handler_stack_.get(), 0, handler_stack_bytes};
  ::sigaltstack(&stack, &former_stack_);
  struct sigaction action {};
  action.sa_sigaction = on_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < handled.size(); ++i) ::sigaction(handled[i], &action, &former_[i]);
}

CrashReport::~CrashReport() {
  for (std::size_t i = 0; i < handled.size(); ++i) ::sigaction(handled[i], &former_[i], nullptr);
  ::sigaltstack(&former_stack_, nullptr);
}

}  // namespace wuneng::trainer
