// A run folder: config.yaml (resolved), run.json (how it was launched), metrics.jsonl, tensorboard/, log.txt
// and checkpoints/.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "common/json.h"
#include "trainer/config.h"

namespace wuneng::trainer {

class RunFolder {
 public:
  explicit RunFolder(std::filesystem::path path) : path_(std::move(path)) {}

  // Makes the folder, or checks that the one that exists belongs to a run of this configuration; then writes
  // config.yaml and adds `launch` to the list in run.json. Throws UsageError when the folder cannot be
  // written, is not a run folder, or was started with another configuration (naming the keys).
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
