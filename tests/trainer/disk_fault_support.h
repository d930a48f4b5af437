// Runs of the program on a disk that fails (tests/support/disk_faults.h), at each call of one save in turn.
#pragma once

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "common/file.h"
#include "tests/support/tiny_run.h"

namespace wuneng::tests {

struct DiskFault {
  std::string rank = "0", call;
  int at = 0;
  std::string how;
  bool is_error() const { return how.starts_with("E"); }
  bool kills() const { return how == "killed" || how == "torn"; }
};

// How a call can fail.
inline std::vector<std::string> ways_to_fail(const std::string& call) {
  if (call == "write") return {"ENOSPC", "EIO", "short", "killed", "torn"};
  if (call == "sync") return {"ENOSPC", "EIO", "killed"};
  if (call == "remove" || call == "read") return {"EIO", "EACCES", "killed"};
  return {"ENOSPC", "EIO", "EACCES", "killed"};
}

inline std::string reason_of(const std::string& how) {
  if (how == "ENOSPC") return "o space left on ";  // the system's words, or ours
  return how == "EIO" ? "Input/output error" : "Permission denied";
}

// Lines of DISK_FAULTS_LOG.
struct DiskCall {
  std::string rank, call, path;
};

inline std::vector<DiskCall> read_disk_calls(const std::filesystem::path& log) {
  std::vector<DiskCall> calls;
  std::istringstream lines(read_text(log));
  for (DiskCall c; lines >> c.rank >> c.call >> c.path;) calls.push_back(c);
  return calls;
}

// What came of faults, to be printed.
class FaultTable {
 public:
  void add(const DiskFault& fault, const std::string& outcome) { ++rows_[{fault.call, fault.how}][outcome]; }
  std::string text() const {
    std::string lines = fmt::format("{:8}{:8}{:>7}  outcomes\n", "call", "fault", "places");
    for (const auto& [row, outcomes] : rows_) {
      int places = 0;
      std::vector<std::string> parts;
      for (const auto& [outcome, count] : outcomes) {
        places += count;
        parts.push_back(fmt::format("{} x {}", count, outcome));
      }
      lines += fmt::format("{:8}{:8}{:>7}  {}\n", row.first, row.second, places, fmt::join(parts, "; "));
    }
    return lines;
  }

 private:
  std::map<std::pair<std::string, std::string>, std::map<std::string, int>> rows_;
};

// Every run begins with a checkpoint of step 2, saves steps 4 and 6, and keeps the newest. Faults strike in
// the save of step 4, which also deletes that of step 2.
class DiskFaultRun : public TinyRun {
 protected:
  // Makes the run that nobody disturbs, and lists the calls of its save of step 4.
  void begin(int ranks) {
    ranks_ = ranks;
    expect_done(run(mine(train("start", settings(2, false)))));
    std::filesystem::copy(scratch / "start", scratch / "run", std::filesystem::copy_options::recursive);
    expect_done(run(with_disk(mine(train("run", settings(6, false))), {"DISK_FAULTS_LOG=" + log()})));
    straight_ = tensors("run");
    calls_ = read_disk_calls(log());
    const auto next = std::ranges::find_if(
        calls_, [](const DiskCall& c) { return c.path.find("step-00000006") != std::string::npos; });
    calls_.erase(next, calls_.end());
    std::erase_if(calls_, [](const DiskCall& c) { return c.call == "read"; });  // as in every resumed run
  }

  // Every fault at every call.
  std::vector<DiskFault> faults() const {
    std::map<std::pair<std::string, std::string>, int> counts;
    std::vector<DiskFault> all;
    for (const DiskCall& c : calls_) {
      const int at = ++counts[{c.rank, c.call}];
      for (const std::string& how : ways_to_fail(c.call)) all.push_back({c.rank, c.call, at, how});
    }
    return all;
  }

  // The path that a call is made with.
  std::string path_of(const DiskFault& fault) const {
    int left = fault.at;
    for (const DiskCall& c : calls_)
      if (c.rank == fault.rank && c.call == fault.call && --left == 0) return c.path;
    ADD_FAILURE() << "there is no such call";
    return {};
  }

  // Runs into the fault, and again without it; returns what came of it.
  std::string outcome(const DiskFault& fault, bool go_on) {
    const std::string words = fmt::format("{} {} {} {}", fault.rank, fault.call, fault.at, fault.how);
    SCOPED_TRACE(fmt::format("{} ranks, fault \"{}\" at {}{}", ranks_, words, path_of(fault),
                             go_on ? ", going on" : ""));
    std::filesystem::remove_all(scratch / "run");
    std::filesystem::copy(scratch / "start", scratch / "run", std::filesystem::copy_options::recursive);
    const std::vector<std::string> command = mine(train("run", settings(6, go_on)));
    const Finished end = run(with_disk(command, {"DISK_FAULTS=" + words}));
    if (fault.is_error()) {
      EXPECT_EQ(end.exit_code, go_on ? 0 : 1) << end.out;
      EXPECT_THAT(end.out,
                  testing::AllOf(testing::HasSubstr(path_of(fault)), testing::HasSubstr(reason_of(fault.how)),
                                 testing::HasSubstr("the checkpoint of step 4 could not be")));
    } else {
      EXPECT_EQ(end.exit_code == 0, !fault.kills()) << end.out;
    }
    const std::string after = tensors("run");  // by inspect --verify
    if (end.exit_code == 0) {
      EXPECT_EQ(after, straight_);
      return fault.is_error() ? "reported, went on, next save whole" : "no harm";
    }
    const std::string newest = after.substr(0, after.find(" samples"));
    EXPECT_THAT(newest, testing::AnyOf("step 2", "step 4"));
    expect_done(run(command));
    EXPECT_EQ(tensors("run"), straight_);
    return fmt::format("{}, {} valid, rerun equal", fault.kills() ? "died" : "exit 1 naming file and reason",
                       newest);
  }

  const std::vector<DiskCall>& calls() const { return calls_; }

 private:
  static void expect_done(const Finished& end) { ASSERT_EQ(end.exit_code, 0) << end.out; }
  std::string log() const { return (scratch / "calls").string(); }
  std::vector<std::string> settings(int steps, bool go_on) const {
    return {fmt::format("trainer.steps={}", steps),
            "trainer.checkpoint.every=2",
            "trainer.checkpoint.keep=1",
            "model.layers=1",
            "optimizer.schedule=constant",
            fmt::format("trainer.checkpoint.on_failure={}", go_on ? "go_on" : "stop")};
  }
  std::vector<std::string> mine(const std::vector<std::string>& arguments) const {
    if (ranks_ > 1) {
      std::vector<std::string> command = mpirun(ranks_, arguments);
      command.insert(command.begin() + 1, {"--timeout", "120"});
      return command;
    }
    std::vector<std::string> command = program(arguments);
    command.insert(command.begin(), {"timeout", "120"});
    return command;
  }
  // The same with the failing disk in the program.
  std::vector<std::string> with_disk(std::vector<std::string> command,
                                     std::vector<std::string> variables) const {
    variables.push_back("LD_PRELOAD=" + std::string(std::getenv("WUNENG_DISK_FAULTS")));
    variables.push_back("DISK_FAULTS_UNDER=" + (scratch / "run").string() + "/checkpoints");
    variables.insert(variables.begin(), "env");
    const auto place = std::ranges::find(command, program({})[0]);
    command.insert(place, variables.begin(), variables.end());
    return command;
  }

  int ranks_ = 1;
  std::string straight_;
  std::vector<DiskCall> calls_;
};

}  // namespace wuneng::tests
