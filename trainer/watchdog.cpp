#include "trainer/watchdog.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <string_view>
#include <tuple>

#include "trainer/agreement.h"
#include "trainer/signals.h"

namespace wuneng::trainer {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr auto tick = 100ms;
constexpr auto patience = 2s;           // for the words of other ranks
constexpr auto launcher_notices = 30s;  // that a host is lost, with the settings of scripts/launch/mpirun.sh

// Not through stdio, whose lock the main thread may hold.
void print(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
    if (written <= 0) return;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace

Watchdog::Watchdog(const StuckAfterConfig& limits, std::int64_t grace, parallel::World& world,
                   const Activity& activity)
    : limits_(limits),
      grace_(static_cast<double>(grace)),
      world_(world),
      activity_(activity),
      hosts_(world.communicator().all_gather_text(world.host())),
      roll_call_(world),
      main_thread_(::pthread_self()),
      thread_([this] { watch(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    done_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::watch() {
  const auto position = [&] {
    return std::tuple(activity_.step.load(), activity_.phase.load(), world_.calls().events());
  };
  auto last = position();
  auto before = Clock::now();
  Seconds stuck{0};
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, tick, [&] { return done_; })) {
    // A job that was suspended as a whole and goes on is not stuck: only time in which this thread ran
    // counts.
    const auto now = Clock::now();
    stuck += std::min<Seconds>(now - before, 1s);
    before = now;
    if (const auto here = position(); here != last) {
      last = here;
      stuck = Seconds{0};
    }
    tell_of_the_end();
    if (roll_call_.answer(place(false)) && !asked_) {
      asked_ = true;
      // The others wait in a collective, and this rank is not in it: it is the one to look at.
      if (!world_.calls().in_call()) print_own("other ranks wait for this one");
    }
    if (const Limit most = limit(); most.seconds.count() > 0 && stuck >= most.seconds)
      end_the_job(fmt::format("no progress for {:.0f} s (trainer.stuck_after.{})", stuck.count(), most.key));
  }
}

Watchdog::Limit Watchdog::limit() const {
  const std::string_view phase = activity_.phase.load();
  const auto of = [](const char* key, std::int64_t seconds) {
    return Limit{key, Seconds(static_cast<double>(seconds))};
  };
  if (phase == "start") return of("start", limits_.start);
  if (phase == "validation") return of("validation", limits_.validation);
  if (phase == "checkpoint") return of("checkpoint", limits_.checkpoint);
  if (world_.calls().in_call()) return of("collective", limits_.collective);
  if (phase == "data") return of("data", limits_.data);
  return of("compute", limits_.compute);
}

std::string Watchdog::place(bool with_time) const {
  const std::string calls = world_.calls().describe(with_time);
  return activity_.describe() + (calls.empty() ? "" : "; " + calls);
}

// A rank that is killed cannot say where it was, but the launcher then ends the others, and leaves them time
// to say it. Two of them, in case that one is the killed one.
void Watchdog::tell_of_the_end() {
  if (told_) {
    if (grace_.count() == 0 || Clock::now() - *told_ < grace_) return;
    print(
        fmt::format("wuneng: error: {}: told to end, and trainer.grace of {:.0f} s was too short to end the "
                    "step and save, at {}; the last checkpoint is kept\n",
                    world_.name(), grace_.count(), place(true)));
    world_.abort(static_cast<int>(ExitCode::failed));
  }
  if (!end_was_asked()) return;
  told_ = Clock::now();
  if (world_.size() > 1 && world_.rank() < 2)
    print(fmt::format("wuneng: {}: told to end (SIGTERM or SIGINT), at {}\n", world_.name(), place(true)));
}

// One rank speaks for all that hang in the same collective: the first, or a later one when no other has
// asked.
void Watchdog::end_the_job(const std::string& why) {
  ::alarm(60);  // should any of this hang too
  const auto turn = Clock::now() + patience * std::min(world_.rank(), 4);
  while (!asked_ && Clock::now() < turn) {
    std::this_thread::sleep_for(tick);
    asked_ = roll_call_.answer(place(false));
  }
  if (!asked_ || !world_.calls().in_call()) print_own(why);
  if (asked_) std::this_thread::sleep_for(2 * patience);  // until the one that asked ends the job
  const std::vector<std::string> words = roll_call_.ask(place(false), patience);
  print_others(words);
  if (a_host_is_silent(words)) std::this_thread::sleep_for(launcher_notices);
  world_.abort(static_cast<int>(ExitCode::failed));
}

void Watchdog::print_own(const std::string& what) {
  if (printed_) return;
  printed_ = true;
  std::string text = fmt::format("wuneng: error: {}: {}, at {}\n", world_.name(), what, place(true));
  if (const Stack stack = stacks_.of(main_thread_); stack.depth > 0)
    text += fmt::format("stack of the main thread of rank {}:\n{}", world_.rank(), to_text(stack));
  else
    text += "its main thread does not answer: it waits inside the kernel, as for a disk\n";
  for (const pthread_t thread : world_.calls().threads_in_calls()) {
    if (::pthread_equal(thread, main_thread_)) continue;
    text += fmt::format("stack of its communication thread:\n{}", to_text(stacks_.of(thread)));
  }
  print(text);
}

// What every rank said, the same words once; those who said nothing by their hosts.
void Watchdog::print_others(const std::vector<std::string>& words) const {
  if (world_.size() == 1) return;
  std::map<std::string, std::vector<int>> silent, speaking;
  for (int r = 0; r < world_.size(); ++r) {
    const auto rank = static_cast<std::size_t>(r);
    if (words[rank].empty())
      silent[hosts_[rank]].push_back(r);
    else
      speaking[words[rank]].push_back(r);
  }
  std::string text;
  for (const auto& [host, ranks] : silent)
    text += fmt::format("wuneng: error: no word from rank {} on {}: stopped, dead or cut off\n",
                        list_ranks(ranks), host);
  for (const auto& [said, ranks] : speaking)
    text += fmt::format("wuneng: rank {}: at {}\n", list_ranks(ranks), said);
  print(text);
}

// Whether another host as a whole says nothing. The launcher must find that out by itself: told to end a job
// while it waits for a host that is gone, Open MPI 4.1 sends it the order for a quarter of an hour.
bool Watchdog::a_host_is_silent(const std::vector<std::string>& words) const {
  std::map<std::string, bool> speaks;
  for (std::size_t r = 0; r < words.size(); ++r) speaks[hosts_[r]] |= !words[r].empty();
  return std::ranges::any_of(speaks, [](const auto& host) { return !host.second; });
}

}  // namespace wuneng::trainer
