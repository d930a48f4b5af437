// Files with errors that name the path, the system's reason and the remedy.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace wuneng {

// A whole file mapped for reading; unmapped at the end of its life.
class MappedFile {
 public:
  // Throws UsageError when the file is missing or cannot be read.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  // Copies bytes from `offset` on without touching the mapping, whose every new page costs a fault. Throws
  // UsageError where the file does not give them.
  void copy(std::size_t offset, std::span<std::byte> target) const;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// Part of a mapped file that is about to be read as a whole: brings it into memory at once, where reading
// would fetch it page by page. Where the system cannot, reading does.
void read_ahead(std::span<const std::byte> mapped);

// A file being written. Every failure (disk full, permission, I/O) throws Error with the path and the reason.
// The disk begins early with what has been written: the fsync at the end of a large file waits for little.
class OutputFile {
 public:
  enum class Mode { truncate, append };
  explicit OutputFile(const std::filesystem::path& path, Mode mode = Mode::truncate);
  ~OutputFile();  // closes without fsync and never throws
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;

  void write(const void* data, std::size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  void sync_and_close();  // fsync, then close: afterwards the bytes survive a crash of the machine

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::size_t waiting_ = 0;  // bytes that the disk was not yet told to begin with
};

// Throws UsageError when the file is missing or cannot be read.
std::string read_text(const std::filesystem::path& path);

// Writes beside `path`, syncs, renames into place and syncs the folder: readers see the old file or the new
// one, never a part.
void write_file_atomically(const std::filesystem::path& path, std::string_view text);

// Makes renames and new names in the folder survive a crash of the machine.
void sync_folder(const std::filesystem::path& folder);

// Creates the folder and its parents. Throws UsageError when that is impossible.
void make_folder(const std::filesystem::path& folder);

}  // namespace wuneng
