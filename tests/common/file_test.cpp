#include "common/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng {
namespace {

using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;

TEST(File, AtomicWriteReplacesTheWholeFileAndLeavesNothingBeside) {
  const Scratch scratch;
  write_file_atomically(scratch / "a.txt", "first, and longer");
  write_file_atomically(scratch / "a.txt", "second");
  EXPECT_EQ(read_text(scratch / "a.txt"), "second");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

TEST(File, EmptyFilesAreReadAsEmpty) {
  const Scratch scratch;
  write_file_atomically(scratch / "empty", "");
  EXPECT_EQ(read_text(scratch / "empty"), "");
}

TEST(File, MissingFilesAndFoldersAreTheUsersFault) {
  const Scratch scratch;
  EXPECT_THAT(message_of<UsageError>([&] { MappedFile(scratch / "none"); }),
              HasSubstr("none: cannot be opened: No such file"));
  EXPECT_THAT(message_of<UsageError>([&] { MappedFile(scratch.path()); }),
              HasSubstr("is not a regular file"));
  write_file_atomically(scratch / "file", "x");
  EXPECT_THAT(message_of<UsageError>([&] { make_folder(scratch / "file" / "below"); }),
              HasSubstr("cannot be created"));
}

TEST(File, AppendGoesOnWhereTheFileEnds) {
  const Scratch scratch;
  { OutputFile(scratch / "log").write("one "); }
  { OutputFile(scratch / "log", OutputFile::Mode::append).write("two"); }
  EXPECT_EQ(read_text(scratch / "log"), "one two");
}

TEST(File, AFullDiskIsAnErrorWithThePathAndKeepsTheOldFile) {
  const Scratch scratch;
  write_file_atomically(scratch / "a.txt", "kept");
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tiny{1024, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tiny);
  const std::string message =
      message_of<Error>([&] { write_file_atomically(scratch / "a.txt", std::string(5000, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("a.txt.partial: write failed"));
  EXPECT_EQ(read_text(scratch / "a.txt"), "kept");
}

}  // namespace
}  // namespace wuneng
