#include "trainer/ablate/folder.h"

#include <fcntl.h>
#include <fmt/ranges.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/check.h"
#include "common/file.h"
#include "common/json.h"
#include "trainer/checkpoint/folder.h"
#include "trainer/run_folder.h"

namespace wuneng::trainer::ablate {
namespace {

// What a run of an ablation must share with what is there: also its length, which its learning rate follows.
std::vector<std::string> apart(const Config& stored, const Config& ours) {
  std::vector<std::string> lines = differences(stored, ours);
  if (stored.trainer.steps != ours.trainer.steps)
    lines.push_back(fmt::format("trainer.steps: {} -> {}", stored.trainer.steps, ours.trainer.steps));
  return lines;
}

}  // namespace

void Folder::check_present(const Plan& plan) const {
  WN_REQUIRE(std::filesystem::exists(this->plan()),
             "{}: this folder is neither empty nor that of an ablation (it has no ablation.yaml); choose "
             "another --output",
             path_.string());
  if (!std::filesystem::exists(runs())) return;
  for (const auto& entry : std::filesystem::directory_iterator(runs())) {
    const std::string name = entry.path().filename().string();
    const auto run = std::ranges::find(plan.runs, name, &PlannedRun::name);
    WN_REQUIRE(
        run != plan.runs.end(),
        "{}: this folder holds another ablation: its run {} is none of {}; choose another --output, or "
        "remove that run's folder",
        path_.string(), name, plan.file.path.string());
    if (!std::filesystem::exists(config(*run))) continue;
    const std::vector<std::string> lines =
        apart(parse_config(read_text(config(*run)), config(*run).string()), run->config);
    WN_REQUIRE(lines.empty(),
               "{}: this folder holds another ablation: its run {} was planned differently (stored -> asked "
               "for):\n  {}\nchoose another --output, or set these back to go on with it",
               path_.string(), name, fmt::join(lines, "\n  "));
  }
}

void Folder::open(const Plan& plan) const {
  make_folder(path_);
  if (!std::filesystem::is_empty(path_)) check_present(plan);
  write_file_atomically(this->plan(), read_text(plan.file.path));
  for (const PlannedRun& run : plan.runs) {
    make_folder(of(run));
    write_file_atomically(config(run), to_yaml(run.config));
  }
}

void Folder::check(const Plan& plan) const {
  WN_REQUIRE(std::filesystem::is_directory(path_), "{}: there is no such folder", path_.string());
  check_present(plan);
}

bool Folder::finished(const PlannedRun& run) const {
  const std::filesystem::path checkpoints = RunFolder(train(run)).checkpoints();
  if (!std::filesystem::exists(checkpoints)) return false;
  const auto newest = newest_checkpoint(checkpoints);
  return newest && newest->filename() == checkpoint_name(run.config.trainer.steps);
}

std::optional<RunRecord> Folder::read_record(const PlannedRun& run) const {
  if (!std::filesystem::exists(record(run))) return std::nullopt;
  const Json json = read_json(record(run));
  try {
    return RunRecord{json.at("exit_code").get<int>(), json.at("message").get<std::string>(),
                     json.at("peak_bytes").get<std::int64_t>(), json.at("seconds").get<double>(),
                     json.at("launches").get<std::int64_t>()};
  } catch (const Json::exception& error) {
    throw UsageError(fmt::format("{}: {}; remove the file", record(run).string(), error.what()));
  }
}

void Folder::write_record(const PlannedRun& run, const RunRecord& r) const {
  const Json json{{"exit_code", r.exit_code},
                  {"message", r.message},
                  {"peak_bytes", r.peak_bytes},
                  {"seconds", r.seconds},
                  {"launches", r.launches}};
  write_file_atomically(record(run), json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

FolderLock::FolderLock(const Folder& folder) {
  using namespace std::chrono_literals;
  const std::filesystem::path file = folder.path() / "lock";
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT, 0644);
  WN_REQUIRE(descriptor_ >= 0, "{}: cannot be written: {}", file.string(), std::strerror(errno));
  constexpr int tries = 100;
  for (int i = 0; ::flock(descriptor_, LOCK_EX | LOCK_NB) != 0; ++i) {
    if (errno == EWOULDBLOCK && i < tries) {
      std::this_thread::sleep_for(100ms);
      continue;
    }
    ::close(descriptor_);
    throw UsageError(
        fmt::format("{}: another `wuneng ablate`, or a run that one has started, is still working "
                    "in this folder; wait for it or stop it",
                    folder.path().string()));
  }
}

FolderLock::~FolderLock() { ::close(descriptor_); }

}  // namespace wuneng::trainer::ablate
