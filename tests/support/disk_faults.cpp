#include "tests/support/disk_faults.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

struct Plan {
  std::string under = variable("DISK_FAULTS_UNDER"), log = variable("DISK_FAULTS_LOG");
  std::string rank = variable("OMPI_COMM_WORLD_RANK");
  std::string call, how;
  int at = 0;
  std::atomic<int> calls{0};  // of the kind that is to fail

  Plan() {
    if (rank.empty()) rank = "0";
    char of_rank[16] = {}, what[16] = {}, fault[16] = {};
    if (std::sscanf(variable("DISK_FAULTS").c_str(), "%15s %15s %d %15s", of_rank, what, &at, fault) != 4 ||
        rank != of_rank)
      return;
    call = what;
    how = fault;
  }
};

std::unique_ptr<Plan>& plan() {  // files are opened before the constructors of this library run
  static auto only = std::make_unique<Plan>();
  return only;
}

template <class Function>
Function* original(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

std::string path_of(int descriptor) {
  char target[4096];
  const std::string link = "/proc/self/fd/" + std::to_string(descriptor);
  const ssize_t length = ::readlink(link.c_str(), target, sizeof target);
  return length > 0 ? std::string(target, static_cast<std::size_t>(length)) : std::string();
}

std::string path_at(int folder, const char* path) {
  return folder == AT_FDCWD || path[0] == '/' ? std::string(path) : path_of(folder) + "/" + path;
}

// How this call fails; empty when it does not.
std::string fault(const char* call, const std::string& path) {
  Plan& p = *plan();
  if (p.under.empty() || !path.starts_with(p.under)) return {};
  if (!p.log.empty()) {
    const std::string line = p.rank + " " + call + " " + path + "\n";
    const long log = ::syscall(SYS_openat, AT_FDCWD, p.log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
    ::syscall(SYS_write, log, line.data(), line.size());
    ::syscall(SYS_close, log);
  }
  if (p.call != call || ++p.calls != p.at) return {};
  if (p.how == "killed") ::kill(::getpid(), SIGKILL);
  return p.how;
}

// Whether the call must not be made; errno says why.
bool fails(const char* call, const std::string& path) {
  const std::string how = fault(call, path);
  if (how == "ENOSPC") errno = ENOSPC;
  if (how == "EIO") errno = EIO;
  if (how == "EACCES") errno = EACCES;
  return !how.empty();
}

bool open_fails(const std::string& path, int flags) {
  return fails((flags & O_ACCMODE) == O_RDONLY ? "read" : "open", path);
}

}  // namespace

namespace wuneng::tests {

void reload_disk_faults() { plan() = std::make_unique<Plan>(); }

}  // namespace wuneng::tests

extern "C" {

int open(const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const auto mode = va_arg(more, mode_t);  // where there is none, it is not looked at
  va_end(more);
  if (open_fails(path, flags)) return -1;
  static auto* const real = original<int(const char*, int, ...)>("open");
  return real(path, flags, mode);
}

int openat(int folder, const char* path, int flags, ...) {
  va_list more;
  va_start(more, flags);
  const auto mode = va_arg(more, mode_t);
  va_end(more);
  if (open_fails(path_at(folder, path), flags)) return -1;
  static auto* const real = original<int(int, const char*, int, ...)>("openat");
  return real(folder, path, flags, mode);
}

ssize_t write(int descriptor, const void* data, size_t bytes) {
  static auto* const real = original<ssize_t(int, const void*, size_t)>("write");
  const std::string how = plan()->under.empty() ? std::string() : fault("write", path_of(descriptor));
  if (how.empty()) return real(descriptor, data, bytes);
  if (how == "short" || how == "torn") {
    const ssize_t written = real(descriptor, data, std::max<size_t>(1, bytes / 2));
    if (how == "torn") ::kill(::getpid(), SIGKILL);
    return written;
  }
  errno = how == "ENOSPC" ? ENOSPC : EIO;
  return -1;
}

int fsync(int descriptor) {
  if (fails("sync", path_of(descriptor))) return -1;
  static auto* const real = original<int(int)>("fsync");
  return real(descriptor);
}

int rename(const char* from, const char* to) {
  if (fails("rename", to)) return -1;
  static auto* const real = original<int(const char*, const char*)>("rename");
  return real(from, to);
}

int remove(const char* path) {
  if (fails("remove", path)) return -1;
  static auto* const real = original<int(const char*)>("remove");
  return real(path);
}

int unlinkat(int folder, const char* path, int flags) {
  if (fails("remove", path_at(folder, path))) return -1;
  static auto* const real = original<int(int, const char*, int)>("unlinkat");
  return real(folder, path, flags);
}

int mkdir(const char* path, mode_t mode) {
  if (fails("make", path)) return -1;
  static auto* const real = original<int(const char*, mode_t)>("mkdir");
  return real(path, mode);
}

}  // extern "C"
