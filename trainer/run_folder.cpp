#include "trainer/run_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/check.h"
#include "common/file.h"

namespace wuneng::trainer {
namespace {

constexpr const char* lock_name = "lock";
constexpr const char* unfinished_config = "config.yaml.partial";  // of a first start that was cut short
constexpr auto patience = std::chrono::seconds(5);  // with a job that was killed and is not yet gone

void check_same_run(const std::filesystem::path& file, const Config& config) {
  const std::vector<std::string> different =
      differences(parse_config(read_text(file), file.string()), config);
  if (different.empty()) return;
  std::string list;
  for (const std::string& line : different) list += "\n  " + line;
  throw UsageError(
      fmt::format("{}: this run was started with another configuration (stored -> asked for):{}\n"
                  "choose another --output for a new run, or set these back to go on with this one",
                  file.parent_path().string(), list));
}

}  // namespace

void RunFolder::check(const Config& config) const {
  make_folder(path_);
  WN_REQUIRE(::access(path_.c_str(), W_OK | X_OK) == 0,
             "{}: this folder cannot be written; choose another --output", path_.string());
  if (std::filesystem::exists(this->config())) return check_same_run(this->config(), config);
  for (const auto& entry : std::filesystem::directory_iterator(path_))
    WN_REQUIRE(
        entry.path().filename() == lock_name || entry.path().filename() == unfinished_config,
        "{}: this folder is neither empty nor a run folder (it has no config.yaml); choose another --output",
        path_.string());
}

void RunFolder::open(const Config& config, const Json& launch) const {
  check(config);
  write_file_atomically(this->config(), to_yaml(config));  // first: from here on it is a run folder
  make_folder(checkpoints());
  make_folder(tensorboard());
  const std::filesystem::path run = path_ / "run.json";
  Json record = std::filesystem::exists(run) ? read_json(run) : Json{{"launches", Json::array()}};
  record["launches"].push_back(launch);
  write_file_atomically(run, record.dump(2) + "\n");
}

RunLock::RunLock(const std::filesystem::path& folder, Holder holder) {
  const std::filesystem::path file = folder / lock_name;
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  WN_REQUIRE(descriptor_ >= 0, "{}: cannot be opened: {}", file.string(), std::strerror(errno));
  const auto give_up = std::chrono::steady_clock::now() + patience;
  const int wanted = holder == Holder::first ? LOCK_EX : LOCK_SH;
  while (::flock(descriptor_, wanted | LOCK_NB) != 0) {
    if (errno == ENOLCK || errno == ENOSYS || errno == EOPNOTSUPP) {
      held_ = false;
      return;
    }
    if (std::chrono::steady_clock::now() > give_up) {
      const std::string owner = read_text(file);
      ::close(descriptor_);
      throw UsageError(
          fmt::format("{}: another job trains in this folder{}; wait for its end, or choose another --output",
                      folder.string(), owner.empty() ? "" : " (" + owner + ")"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  if (holder == Holder::further) return;
  char host[256] = {};
  ::gethostname(host, sizeof host - 1);
  const std::string owner = fmt::format("process {} on {}", ::getpid(), host);
  const bool written = ::ftruncate(descriptor_, 0) == 0 &&
                       ::pwrite(descriptor_, owner.data(), owner.size(), 0) == std::ssize(owner);
  WN_CHECK(written, "{}: cannot be written: {}", file.string(), std::strerror(errno));
  ::flock(descriptor_, LOCK_SH);  // for the further processes to join
}

RunLock::~RunLock() { ::close(descriptor_); }

}  // namespace wuneng::trainer
