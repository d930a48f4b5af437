// A training run from its configuration to its last checkpoint.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "common/check.h"
#include "parallel/world.h"
#include "trainer/activity.h"
#include "trainer/config.h"

namespace wuneng::trainer {

struct TrainOptions {
  std::filesystem::path output;  // run folder; one that holds a run of this configuration is continued
  std::string command_line;      // kept in run.json
  bool progress_line =
      false;  // show it although standard error is not a terminal (it is a pipe under mpirun)
  std::function<void(std::int64_t step)> before_step;  // may be empty; called on every rank
};

// Trains until trainer.steps and returns ExitCode::done, or ExitCode::stopped when a signal asked for that.
// All ranks call it; `activity` is kept up to date. Throws AgreedError for what is wrong on all ranks and
// other errors for what is wrong on this one.
ExitCode train(const Config& config, const TrainOptions& options, parallel::World& world, Activity& activity);

}  // namespace wuneng::trainer
