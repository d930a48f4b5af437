// Checkpoints on disks that fail, and saves that are cut short.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/trainer/checkpoint_support.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using tests::message_of;
using tests::Scratch;

TEST(CheckpointFault, EveryChangedByteIsFound) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 1);
  const std::string remedy = "delete " + folder.string() + " to resume from the one before it";
  for (const std::string& name : names_in(folder)) {
    const std::string whole = read_text(folder / name);
    for (std::size_t i = 0; i < whole.size(); ++i) {
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ (i % 2 == 0 ? 1 : 0x20));
      put(folder / name, bytes);
      ASSERT_THAT(refusal(folder), AllOf(HasSubstr((folder / name).string() + ": "), HasSubstr(remedy)))
          << name << " byte " << i;
      if (name == "manifest.json") {
        ASSERT_THAT(message_of<UsageError>([&] { newest_checkpoint(scratch.path()); }), HasSubstr(remedy));
      }
    }
    put(folder / name, whole);
  }
  expect_intact(folder);
}

TEST(CheckpointFault, LoadingChecksTheHashOfWhatItReads) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 1);
  std::string bytes = read_text(folder / "model.safetensors");
  bytes[Checkpoint(folder).tensors()[1].slices[0].offset] ^= 1;
  put(folder / "model.safetensors", bytes);
  EXPECT_THAT(newest_checkpoint(scratch.path()), Optional(folder)) << "opening reads no tensor";
  const Checkpoint checkpoint(folder);
  EXPECT_THAT(message_of<UsageError>([&] { load_model(checkpoint, zeros_of(model_at(1))); }),
              AllOf(HasSubstr("model.safetensors: tensor layers.0.weight: was changed after it was written"),
                    HasSubstr("delete ")));
  load_optimizer(checkpoint, zeros_of(optimizer_at(1)));
}

TEST(CheckpointFault, CutAndMissingFilesAreFoundOnOpening) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 1);
  for (const std::string& name : names_in(folder)) {
    const std::string whole = read_text(folder / name);
    for (std::size_t length = 0; length < whole.size(); length += 1 + whole.size() / 50) {
      put(folder / name, whole.substr(0, length));
      ASSERT_THAT(message_of<UsageError>([&] { newest_checkpoint(scratch.path()); }),
                  AllOf(HasSubstr(name), HasSubstr("delete ")))
          << length;
    }
    put(folder / name, whole + " ");
    EXPECT_THAT(message_of<UsageError>([&] { newest_checkpoint(scratch.path()); }), HasSubstr(name));
    fs::remove(folder / name);
    if (name != "manifest.json") {
      EXPECT_THAT(refusal(folder), AllOf(HasSubstr(name + ": cannot be opened"), HasSubstr("delete ")));
    }
    put(folder / name, whole);
  }
  expect_intact(folder);
}

TEST(CheckpointFault, FilesOfAnotherCheckpointAreFoundOnOpening) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 1);
  NamedTensors renamed = model_at(1);
  renamed[0].first = "embedding.WEIGHT";
  write_safetensors(folder / "model.safetensors", renamed);
  EXPECT_THAT(message_of<UsageError>([&] { newest_checkpoint(scratch.path()); }),
              HasSubstr("its header was changed"));
}

// ---- files of several ranks that are not what they were ----

constexpr const char* shard_file = "optimizer-rank-00001.safetensors";

// What opening and reading says of a checkpoint of two ranks after `change` of one of its files.
std::string refusal_after(const std::function<void(const fs::path& file)>& change) {
  const Scratch scratch;
  const fs::path folder = save_of_two_ranks(scratch.path(), 1);
  expect_intact(folder);
  change(folder / shard_file);
  const std::string message = refusal(folder);
  EXPECT_THAT(message, HasSubstr("delete " + folder.string() + " to resume from the one before it"));
  return message;
}

TEST(CheckpointFault, AFileOfOneRankThatIsNoFileIsRefused) {
  const auto replaced_by = [](const std::function<void(const fs::path&)>& make) {
    return refusal_after([&](const fs::path& file) {
      fs::remove(file);
      make(file);
    });
  };
  const std::string file = std::string("/step-00000001/") + shard_file;
  EXPECT_THAT(replaced_by([](const fs::path&) {}), HasSubstr(file + ": cannot be opened: No such file"));
  EXPECT_THAT(replaced_by([](const fs::path& path) { fs::create_directory(path); }),
              HasSubstr(file + ": is not a regular file"));
  EXPECT_THAT(replaced_by([](const fs::path& path) { ASSERT_EQ(::mkfifo(path.c_str(), 0666), 0); }),
              HasSubstr(file + ": is not a regular file"));  // and nobody waits for a writer
  EXPECT_THAT(replaced_by([](const fs::path& path) { fs::create_symlink("/dev/zero", path); }),
              HasSubstr(file + ": is not a regular file"));
  EXPECT_THAT(replaced_by([](const fs::path& path) { fs::create_symlink("nowhere", path); }),
              HasSubstr(file + ": cannot be opened: No such file"));
  EXPECT_THAT(replaced_by([](const fs::path& path) { fs::create_symlink(path.filename(), path); }),
              HasSubstr(file + ": cannot be opened: Too many levels of symbolic links"));
  EXPECT_THAT(replaced_by([](const fs::path& path) { put(path, ""); }), HasSubstr(file + ": has 0 bytes"));
}

TEST(CheckpointFault, AFileOfAnotherRankOrCheckpointIsRefused) {
  const Scratch other;
  const fs::path stranger = save_of_two_ranks(other.path(), 2) / shard_file;
  const auto replaced_by = [](const fs::path& stranger, bool link) {
    return refusal_after([&](const fs::path& file) {
      const fs::path source = stranger.is_absolute() ? stranger : file.parent_path() / stranger;
      fs::remove(file);
      link ? fs::create_symlink(source, file) : fs::copy(source, file);
    });
  };
  for (const bool link : {false, true}) {  // the same tensors of another step: only the hashes tell
    EXPECT_THAT(replaced_by(stranger, link),
                HasSubstr(std::string(shard_file) + ": tensor embedding.weight.moment: was changed after"));
    EXPECT_THAT(replaced_by("model-rank-00000.safetensors", link),
                HasSubstr(std::string(shard_file) + ": has "));
  }
}

TEST(CheckpointFault, ALinkToTheSameBytesIsAsGoodAndWhatItNamesIsLeftAlone) {
  const Scratch scratch, elsewhere;
  const fs::path folder = save_of_two_ranks(scratch.path(), 1);
  const fs::path target = elsewhere / "moved";
  fs::rename(folder / shard_file, target);
  fs::create_symlink(target, folder / shard_file);
  const std::string bytes = read_text(target);
  expect_intact(folder);
  put(folder / "manifest.json", "{}");
  save_of_two_ranks(scratch.path(), 1);  // over a damaged one
  expect_intact(folder);
  EXPECT_FALSE(fs::is_symlink(folder / shard_file));
  EXPECT_EQ(read_text(target), bytes);
}

TEST(CheckpointFault, ALinkInPlaceOfTheFolderIsNotWrittenThrough) {
  const Scratch scratch, elsewhere;
  const fs::path other = save(elsewhere.path(), 2);
  for (const bool valid : {true, false}) {
    if (!valid) put(other / "manifest.json", "{}");
    fs::remove(scratch / "step-00000002");
    fs::create_symlink(other, scratch / "step-00000002");
    EXPECT_THAT(message_of<Error>([&] { save(scratch.path(), 2); }),
                HasSubstr("step-00000002: is a link, and no checkpoint is written through one; remove it"));
    EXPECT_EQ(newest_checkpoint(scratch.path()), std::nullopt);
    EXPECT_TRUE(fs::exists(other / "manifest.json"));
  }
}

// Writes fail beyond this size of a file, as on a full disk, during the life of this object.
class FullDisk {
 public:
  explicit FullDisk(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FullDisk() {
    setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST(CheckpointFault, AFullDiskCostsOnlyThatSave) {
  const Scratch scratch;
  const fs::path first = save(scratch.path(), 1);
  rlim_t enough = 0;
  for (const std::string& name : names_in(first))
    enough = std::max<rlim_t>(enough, fs::file_size(first / name));
  std::set<std::string> places;
  for (rlim_t limit = 0; limit < enough; limit += 1 + enough / 60) {
    std::string message;
    {
      const FullDisk full(limit);
      message = message_of<Error>([&] { save(scratch.path(), 2, 1); });
    }
    const std::string begin = (scratch / "step-00000002").string() + "/";
    ASSERT_TRUE(message.starts_with(begin)) << message;
    ASSERT_THAT(message, HasSubstr(": write failed: "));
    places.insert(message.substr(begin.size(), message.find(':') - begin.size()));
    ASSERT_THAT(newest_checkpoint(scratch.path()), Optional(first));
    expect_intact(first);
  }
  EXPECT_THAT(places,
              testing::IsSupersetOf({"model.safetensors", "optimizer.safetensors", "manifest.json.partial"}));
  expect_intact(save(scratch.path(), 2, 1));
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("step-00000002"));
}

// Runs `work` in a child process that is killed as its n-th system call returns. True when it ended before
// that.
bool survives(std::int64_t n, const std::function<void()>& work) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr);
    std::raise(SIGSTOP);
    work();
    ::_exit(0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  for (std::int64_t i = 0; i < 2 * n && WIFSTOPPED(status);
       ++i) {  // a call stops twice: on its way in and out
    EXPECT_EQ(::ptrace(PTRACE_SYSCALL, child, nullptr, nullptr), 0);
    EXPECT_EQ(::waitpid(child, &status, 0), child);
  }
  if (WIFEXITED(status)) return true;
  ::kill(child, SIGKILL);
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return false;
}

bool may_trace() {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) == 0 ? 0 : 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// Death between any two system calls of a save, from clearing old remains to deleting the checkpoint that is
// no longer kept.
TEST(CheckpointFault, DeathAnywhereCostsOnlyThatSave) {
  if (!may_trace()) GTEST_SKIP() << "this system does not let a process trace its child";
  const Scratch scratch;
  save(scratch / "start", 100);
  fs::create_directory(scratch / "start" / "step-00000150");
  put(scratch / "start" / "step-00000150" / "model.safetensors", "remains");
  const fs::path run = scratch / "run";
  bool done = false;
  std::int64_t calls = 0;
  for (; !done; ++calls) {
    SCOPED_TRACE(fmt::format("killed after {} system calls", calls));
    fs::remove_all(run);
    fs::copy(scratch / "start", run, fs::copy_options::recursive);
    done = survives(calls, [&] { save(run, 200, 1); });
    const auto newest = newest_checkpoint(run);
    ASSERT_THAT(newest, Optional(AnyOf(run / "step-00000100", run / "step-00000200")));
    ASSERT_TRUE(newest == run / "step-00000200" || !done);
    for (const std::string& name : names_in(run))
      if (fs::exists(run / name / "manifest.json")) expect_intact(run / name);
    if (calls % 8 != 0) continue;  // the disk is slow
    save(run, 200, 1);
    ASSERT_THAT(names_in(run), ElementsAre("step-00000200"));
    expect_intact(run / "step-00000200");
  }
  EXPECT_GT(calls, 80);
}

}  // namespace
}  // namespace wuneng::trainer
