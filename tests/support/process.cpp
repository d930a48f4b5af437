#include "tests/support/process.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace wuneng::tests {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

Process::Process(const std::vector<std::string>& command) : begin_(now()) {
  int ends[2];
  if (::pipe(ends) != 0) return;
  child_ = ::fork();
  if (child_ == 0) {
    ::dup2(ends[1], STDOUT_FILENO);
    ::dup2(ends[1], STDERR_FILENO);
    ::close(ends[0]);
    ::close(ends[1]);
    std::vector<char*> words;
    for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
    words.push_back(nullptr);
    ::execvp(words[0], words.data());
    ::_exit(127);
  }
  ::close(ends[1]);
  pipe_ = ends[0];
}

Process::~Process() {
  if (child_ > 0) {
    ::kill(child_, SIGKILL);
    ::waitpid(child_, nullptr, 0);
  }
  if (pipe_ >= 0) ::close(pipe_);
}

void Process::signal(int number) const { ::kill(child_, number); }

bool Process::wait_for_more() {
  char buffer[4096];
  const ssize_t count = ::read(pipe_, buffer, sizeof buffer);
  if (count > 0) out_.append(buffer, static_cast<std::size_t>(count));
  return count > 0;
}

bool Process::wait_for(const std::string& text) {
  while (out_.find(text) == std::string::npos)
    if (!wait_for_more()) return false;
  return true;
}

Finished Process::wait() {
  while (wait_for_more()) {
  }
  int status = 0;
  ::waitpid(child_, &status, 0);
  child_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), out_, now() - begin_};
}

Finished run(const std::vector<std::string>& command) { return Process(command).wait(); }

int process_of_rank(int rank, const std::string& word) {
  const auto contents = [](const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(stream), {});
  };
  const std::string variable = "OMPI_COMM_WORLD_RANK=" + std::to_string(rank) + std::string(1, '\0');
  std::error_code gone;  // processes end while their list is read
  for (const auto& entry : std::filesystem::directory_iterator("/proc", gone)) {
    const std::string number = entry.path().filename().string();
    if (number.find_first_not_of("0123456789") != std::string::npos) continue;
    if (contents(entry.path() / "cmdline").find(word) == std::string::npos) continue;
    if (contents(entry.path() / "environ").find(variable) != std::string::npos) return std::stoi(number);
  }
  return 0;
}

std::vector<std::string> program(const std::vector<std::string>& arguments) {
  std::vector<std::string> command{std::getenv("WUNENG")};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return command;
}

std::vector<std::string> mpirun(int ranks, const std::vector<std::string>& arguments) {
  std::vector<std::string> command{"mpirun", "-n", std::to_string(ranks)};
  const std::vector<std::string> rest = program(arguments);
  command.insert(command.end(), rest.begin(), rest.end());
  return command;
}

std::string source(const std::string& path) { return std::string(std::getenv("WUNENG_SOURCE")) + "/" + path; }

}  // namespace wuneng::tests
