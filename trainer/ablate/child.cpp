#include "trainer/ablate/child.h"

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>

#include "common/check.h"

extern char** environ;

namespace wuneng::trainer::ablate {
namespace {

// Variables by which a launcher tells a process its rank.
bool is_of_a_launcher(std::string_view entry) {
  for (const std::string_view prefix :
       {"OMPI_COMM_WORLD_", "OMPI_MCA_ess", "OMPI_MCA_orte", "OMPI_UNIVERSE_SIZE", "PMIX_", "PMI_",
        "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"})
    if (entry.starts_with(prefix)) return true;
  return false;
}

struct Prepared {
  std::vector<char*> words, environment;
  int output = -1;
  cpu_set_t cores;
  bool pinned = false;
  pid_t parent = 0;
};

// Between fork and exec only calls that are safe in a signal handler.
[[noreturn]] void become(const Prepared& prepared) {
  ::setpgid(0, 0);
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);  // a launcher cleans up; train asks for no more than its current step
  if (::getppid() != prepared.parent) ::_exit(127);
  sigset_t none;
  sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = ::open("/dev/null", O_RDONLY);
  ::dup2(input, STDIN_FILENO);
  ::dup2(prepared.output, STDOUT_FILENO);
  ::dup2(prepared.output, STDERR_FILENO);
  if (prepared.pinned) ::sched_setaffinity(0, sizeof prepared.cores, &prepared.cores);
  environ = const_cast<char**>(prepared.environment.data());
  ::execvp(prepared.words[0], prepared.words.data());
  constexpr std::string_view message = "wuneng: error: the program cannot be started: ";
  const char* reason = ::strerror(errno);
  [[maybe_unused]] ssize_t ignored = ::write(STDERR_FILENO, message.data(), message.size());
  ignored = ::write(STDERR_FILENO, prepared.words[0], std::strlen(prepared.words[0]));
  ignored = ::write(STDERR_FILENO, ": ", 2);
  ignored = ::write(STDERR_FILENO, reason, std::strlen(reason));
  ignored = ::write(STDERR_FILENO, "\n", 1);
  ::_exit(127);
}

}  // namespace

std::vector<std::vector<int>> share_cores(std::int64_t groups) {
  cpu_set_t set;
  WN_CHECK(::sched_getaffinity(0, sizeof set, &set) == 0, "the cores of this process are unknown: {}",
           std::strerror(errno));
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  const auto count = static_cast<std::int64_t>(cores.size());
  WN_REQUIRE(groups <= count,
             "--jobs {}: there are {} cores here, and each run needs one of its own; at most {}", groups,
             count, count);
  std::vector<std::vector<int>> shares;
  for (std::int64_t group = 0; group < groups; ++group)
    shares.emplace_back(cores.begin() + group * count / groups, cores.begin() + (group + 1) * count / groups);
  return shares;
}

Child::Child(const std::vector<std::string>& command, const std::filesystem::path& output,
             const std::vector<int>& cores) {
  Prepared prepared;
  for (const std::string& word : command) prepared.words.push_back(const_cast<char*>(word.c_str()));
  prepared.words.push_back(nullptr);
  for (char** entry = environ; *entry; ++entry)
    if (!is_of_a_launcher(*entry)) prepared.environment.push_back(*entry);
  prepared.environment.push_back(nullptr);
  CPU_ZERO(&prepared.cores);
  for (const int core : cores) CPU_SET(core, &prepared.cores);
  prepared.pinned = !cores.empty();
  prepared.parent = ::getpid();
  prepared.output = ::open(output.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  WN_CHECK(prepared.output >= 0, "{}: cannot be written: {}", output.string(), std::strerror(errno));
  pid_ = ::fork();
  if (pid_ == 0) become(prepared);
  const int error = errno;
  ::close(prepared.output);
  WN_CHECK(pid_ > 0, "no process can be started: {}", std::strerror(error));
}

Child::~Child() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

Child::Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}

Child& Child::operator=(Child&& other) noexcept {
  std::swap(pid_, other.pid_);
  return *this;
}

std::optional<ChildExit> Child::ended() {
  int status = 0;
  rusage usage{};
  const pid_t found = ::wait4(pid_, &status, WNOHANG, &usage);
  if (found == 0) return std::nullopt;
  WN_CHECK(found == pid_, "process {}: cannot be waited for: {}", pid_, std::strerror(errno));
  pid_ = -1;
  constexpr std::int64_t kibi = 1024;  // the unit of ru_maxrss
  return ChildExit{WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), usage.ru_maxrss * kibi};
}

void Child::signal(int number) const {
  if (pid_ > 0) ::kill(pid_, number);
}

}  // namespace wuneng::trainer::ablate
