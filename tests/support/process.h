// Runs the program itself, as a user would.
#pragma once

#include <string>
#include <vector>

namespace wuneng::tests {

struct Finished {
  int exit_code = -1;  // 128 + n when signal n ended it
  std::string out;     // standard output and standard error together
  double seconds = 0.0;
};

// A child process with both outputs captured; killed at the end of this object's life if it still runs.
class Process {
 public:
  explicit Process(const std::vector<std::string>& command);
  ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const;
  // Reads output until `text` has appeared; false when the process ends first.
  bool wait_for(const std::string& text);
  bool wait_for_more();  // some output, whatever it is; false when the process ends first
  Finished wait();       // to the end

 private:
  int child_ = -1, pipe_ = -1;
  double begin_ = 0.0;
  std::string out_;
};

Finished run(const std::vector<std::string>& command);

// The process of this rank of a job, found by a word of its command line, such as its run folder; 0: there is
// none.
int process_of_rank(int rank, const std::string& word);

// $WUNENG with these arguments; and the same started by mpirun.
std::vector<std::string> program(const std::vector<std::string>& arguments);
std::vector<std::string> mpirun(int ranks, const std::vector<std::string>& arguments);
// A path inside the sources.
std::string source(const std::string& path);

}  // namespace wuneng::tests
