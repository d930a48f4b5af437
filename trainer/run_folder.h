// A run folder: config.yaml (resolved), run.json (how it was launched), metrics.jsonl, tensorboard/, log.txt
// and checkpoints/.
#pragma once

#include <filesystem>
#include <string>

#include "common/json.h"
#include "trainer/config.h"

namespace wuneng::trainer {

// Keeps two jobs off one run folder: held by every process of a job, and gone with the last of them, however
// it ends.
class RunLock {
 public:
  enum class Holder { first, further };
  // The first process of a job takes it from all other jobs, waiting some seconds for what is left of one
  // that was just killed; the further ones join it afterwards. Throws UsageError that names the host and
  // process of the job that has it.
  RunLock(const std::filesystem::path& folder, Holder holder);
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

  bool held() const { return held_; }  // false: this file system has no locks

 private:
  int descriptor_ = -1;
  bool held_ = true;
};

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  // Makes the folder, or checks that the one that exists belongs to a run of this configuration. Throws
  // UsageError when it cannot be written, is not a run folder, or was started with another configuration
  // (naming the keys).
  void check(const Config& config) const;
  // The same; then writes config.yaml and adds `launch` to the list in run.json.
  void open(const Config& config, const Json& launch) const;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path config() const { return path_ / "config.yaml"; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path metrics() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path log() const { return path_ / "log.txt"; }

 private:
  std::filesystem::path path_;
};

}  // namespace wuneng::trainer
