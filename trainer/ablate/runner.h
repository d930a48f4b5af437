// Runs an ablation: one `wuneng train` process per run, some of them side by side.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "common/check.h"
#include "trainer/ablate/folder.h"
#include "trainer/ablate/plan.h"

namespace wuneng::trainer::ablate {

struct RunnerOptions {
  std::filesystem::path program;    // this one
  std::int64_t jobs = 1;            // runs side by side, each pinned to its share of the cores
  std::vector<std::string> launch;  // words before the program, such as mpirun -n 8; no pinning then
};

// Words of `text`, separated by blanks.
std::vector<std::string> words_of(const std::string& text);

// The command that trains a run; the same again goes on with it.
std::vector<std::string> train_command(const Folder& folder, const PlannedRun& run,
                                       const RunnerOptions& options);

// Throws UsageError when a corpus that a variant needs is not named or not there, or when there are too few
// cores.
void check_ready(const Plan& plan, const RunnerOptions& options);

// Makes the runs that have not finished, in order, and rewrites the report whenever one ends. A run that
// fails stops no other. INT, TERM and USR1 make the running ones save and stop; a second INT or TERM ends
// them at once. Returns failed when a run has failed, stopped when a signal came before the last had ended,
// else done.
ExitCode run_all(const Plan& plan, const Folder& folder, const RunnerOptions& options);

// A Slurm array job that makes them instead, one task each, which goes on in a new job when its time is up.
std::string slurm_script(const Plan& plan, const Folder& folder, const RunnerOptions& options);

// A table of the runs: parameters, FLOPs, and how long all take.
std::string dry_run_text(const Plan& plan, const RunnerOptions& options);

}  // namespace wuneng::trainer::ablate
