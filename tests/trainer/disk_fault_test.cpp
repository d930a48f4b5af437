// Saves on a disk that fails at any one of their calls: all of them in this process, some through the
// program. disk_fault_soak.cpp takes all through the program, on two ranks too.
#include "tests/trainer/disk_fault_support.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/disk_faults.h"
#include "tests/trainer/checkpoint_support.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::DiskCall;
using tests::DiskFault;
using tests::Scratch;

struct Child {
  bool saved = false;
  std::string error;
};

// A save in a child process, on a disk with this fault.
Child save_with(const std::string& fault, const fs::path& run, const fs::path& log) {
  const fs::path message = run.parent_path() / "message";
  fs::remove(message);
  const pid_t child = ::fork();
  if (child == 0) {
    ::setenv("DISK_FAULTS_UNDER", run.c_str(), 1);
    if (fault.empty()) ::setenv("DISK_FAULTS_LOG", log.c_str(), 1);
    ::setenv("DISK_FAULTS", fault.c_str(), 1);
    tests::reload_disk_faults();
    try {
      save_of_two_ranks(run, 200, 1);
    } catch (const std::exception& error) {
      OutputFile(message).write(error.what());
      ::_exit(1);
    }
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) || WTERMSIG(status) == SIGKILL) << status;
  return {WIFEXITED(status) && WEXITSTATUS(status) == 0, fs::exists(message) ? read_text(message) : ""};
}

// Death between two calls is in checkpoint_fault_test.cpp.
TEST(DiskFault, AnyCallMayFail) {
  const Scratch scratch;
  const fs::path start = scratch / "start", run = scratch / "run";
  save(start, 100);
  fs::create_directory(start / "step-00000150");
  put(start / "step-00000150" / "model-rank-00001.safetensors", "remains");
  fs::copy(start, run, fs::copy_options::recursive);
  ASSERT_TRUE(save_with("", run, scratch / "log").saved);
  std::map<std::string, int> counts;
  tests::FaultTable table;
  int places = 0;
  for (const DiskCall& call : tests::read_disk_calls(scratch / "log")) {
    const int at = ++counts[call.call];
    for (const std::string& how : tests::ways_to_fail(call.call)) {
      if (how == "killed") continue;
      const DiskFault fault{"0", call.call, at, how};
      const std::string words = fmt::format("0 {} {} {}", call.call, at, how);
      SCOPED_TRACE(words + " at " + call.path);
      fs::remove_all(run);
      fs::copy(start, run, fs::copy_options::recursive);
      const Child child = save_with(words, run, {});
      const bool looks = call.call == "read";  // a checkpoint that cannot be looked at counts as damaged
      ASSERT_TRUE(child.saved || how != "short");
      if (fault.is_error() && !(looks && child.saved)) {
        ASSERT_FALSE(child.saved);
        ASSERT_THAT(child.error, AllOf(HasSubstr(call.path), HasSubstr(tests::reason_of(how))));
      }
      const auto newest = newest_checkpoint(run);
      ASSERT_THAT(newest, testing::Optional(AnyOf(run / "step-00000100", run / "step-00000200")));
      ASSERT_TRUE(newest == run / "step-00000200" || !child.saved);
      for (const std::string& name : names_in(run))
        if (fs::exists(run / name / "manifest.json")) expect_intact(run / name);
      table.add(fault, fmt::format("{}, step {} valid",
                                   child.saved           ? "no harm"
                                   : child.error.empty() ? "died"
                                                         : "named file and reason",
                                   newest == run / "step-00000200" ? 200 : 100));
      if (places++ % 6 != 0) continue;  // the disk is slow
      save_of_two_ranks(run, 200, 1);
      ASSERT_THAT(names_in(run), ElementsAre("step-00000200"));
      expect_intact(run / "step-00000200");
    }
  }
  std::printf("%s", table.text().c_str());
  for (const char* call : {"open", "read", "write", "sync", "rename", "remove", "make"})
    EXPECT_GT(counts[call], 0) << call;
}

}  // namespace
}  // namespace wuneng::trainer

namespace wuneng::tests {
namespace {

// The first or the last call of some kinds, with one fault each.
TEST_F(DiskFaultRun, SomeFaultsThroughTheProgram) {
  begin(1);
  FaultTable table;
  std::size_t number = 0;
  for (const std::string call : {"make", "write", "sync", "remove"}) {
    std::vector<DiskFault> some = faults();
    std::erase_if(some, [&](const DiskFault& fault) { return fault.call != call || fault.kills(); });
    ASSERT_FALSE(some.empty()) << call;
    const DiskFault& fault = number++ % 2 == 0 ? some.front() : some.back();
    const bool go_on = number % 3 == 0;
    table.add(fault, outcome(fault, go_on));
  }
  std::printf("%s", table.text().c_str());
}

TEST_F(DiskFaultRun, AFaultOfOneRankIsOneOfAll) {
  begin(2);
  for (const DiskFault& fault : {DiskFault{"1", "write", 1, "ENOSPC"}, DiskFault{"1", "sync", 2, "killed"}})
    outcome(fault, false);
}

}  // namespace
}  // namespace wuneng::tests
