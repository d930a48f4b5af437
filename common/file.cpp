#include "common/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "common/check.h"

namespace wuneng {
namespace {

constexpr std::size_t write_back_bytes = 8 << 20;

std::string reason(int error) {
  if (error == ENOSPC) return "no space left on the disk; free some and run the same command again";
  if (error == EACCES || error == EROFS)
    return std::string(std::strerror(error)) + "; choose a place that you may write to";
  return std::strerror(error);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) : path_(path) {
  // A pipe without a writer must be refused, not waited for.
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  WN_REQUIRE(descriptor >= 0, "{}: cannot be opened: {}", path.string(), std::strerror(errno));
  struct stat status {};
  const bool regular = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
  size_ = regular ? static_cast<std::size_t>(status.st_size) : 0;
  void* mapping = size_ > 0 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0) : nullptr;
  const int error = errno;
  if (!regular || mapping == MAP_FAILED) ::close(descriptor);
  WN_REQUIRE(regular, "{}: is not a regular file", path.string());
  WN_REQUIRE(mapping != MAP_FAILED, "{}: cannot be mapped: {}", path.string(), std::strerror(error));
  data_ = static_cast<const std::byte*>(mapping);
  descriptor_ = descriptor;
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

void MappedFile::copy(std::size_t offset, std::span<std::byte> target) const {
  while (!target.empty()) {
    const ssize_t got = ::pread(descriptor_, target.data(), target.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    WN_REQUIRE(got > 0, "{}: cannot be read at byte {}: {}", path_.string(), offset,
               got < 0 ? std::strerror(errno) : "it ends there, but was longer when it was opened");
    offset += static_cast<std::size_t>(got);
    target = target.subspan(static_cast<std::size_t>(got));
  }
}

void read_ahead(std::span<const std::byte> mapped) {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(mapped.data()) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(mapped.data() + mapped.size());
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
}

OutputFile::OutputFile(const std::filesystem::path& path, Mode mode) : path_(path) {
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | (mode == Mode::append ? O_APPEND : O_TRUNC);
  descriptor_ = ::open(path.c_str(), flags, 0666);
  WN_CHECK(descriptor_ >= 0, "{}: cannot be written: {}", path.string(), reason(errno));
}

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      waiting_(other.waiting_) {}

void OutputFile::write(const void* data, std::size_t bytes) {
  const auto* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t written = ::write(descriptor_, next, bytes);
    if (written < 0 && errno == EINTR) continue;
    WN_CHECK(written > 0, "{}: write failed: {}", path_.string(), reason(written < 0 ? errno : ENOSPC));
    next += written;
    bytes -= static_cast<std::size_t>(written);
    waiting_ += static_cast<std::size_t>(written);
  }
  if (waiting_ < write_back_bytes) return;
  ::sync_file_range(descriptor_, 0, 0, SYNC_FILE_RANGE_WRITE);  // only a hint: fsync tells of failures
  waiting_ = 0;
}

void OutputFile::sync_and_close() {
  const bool synced = ::fsync(descriptor_) == 0;
  const int error = errno;
  const bool closed = ::close(std::exchange(descriptor_, -1)) == 0;
  WN_CHECK(synced && closed, "{}: write failed: {}", path_.string(), reason(synced ? errno : error));
}

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::path partial = path;
  partial += ".partial";
  OutputFile file(partial);
  file.write(text);
  file.sync_and_close();
  std::error_code error;
  std::filesystem::rename(partial, path, error);
  WN_CHECK(!error, "{}: cannot be put in place: {}", path.string(), reason(error.value()));
  sync_folder(path.has_parent_path() ? path.parent_path() : std::filesystem::path("."));
}

void sync_folder(const std::filesystem::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = descriptor >= 0 && ::fsync(descriptor) == 0;
  const int error = errno;
  if (descriptor >= 0) ::close(descriptor);
  WN_CHECK(synced, "{}: cannot be synced: {}", folder.string(), reason(error));
}

void make_folder(const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  WN_REQUIRE(!error, "{}: cannot be created: {}", folder.string(), reason(error.value()));
}

}  // namespace wuneng
