#include <fmt/ranges.h>

#include "trainer/ablate/runner.h"

namespace wuneng::trainer::ablate {
namespace {

// A word as a shell reads it back.
std::string quoted(const std::string& word) {
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return text + "'";
}

}  // namespace

std::string slurm_script(const Plan& plan, const Folder& folder, const RunnerOptions& options) {
  const std::string root = std::filesystem::absolute(folder.path()).lexically_normal().string();
  std::string names;
  for (const PlannedRun& run : plan.runs) names += " " + quoted(run.name);
  std::string launch = "srun --mpi=pmix --kill-on-bad-exit=1";
  if (!options.launch.empty()) launch = fmt::format("{}", fmt::join(options.launch, " "));
  return fmt::format(
      R"(#!/usr/bin/env bash
# The {0} runs of an ablation as one Slurm array job, at most {1} at a time; each goes on, job after job, until it is done:
#   sbatch [--ntasks-per-node=8 ...] slurm.sbatch
# and then: wuneng ablate FILE --output DIR --report
#SBATCH --job-name=ablate
#SBATCH --array=0-{2}%{1}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
set -uo pipefail

folder={3}
names=({4} )
run=$folder/runs/${{names[$SLURM_ARRAY_TASK_ID]}}
exec >>"$run/output.txt" 2>&1

# Five minutes before its time is up the run saves and stops, and its task is queued again. The shell must be waiting to hear the signal.
stopping=false step=
trap 'stopping=true; [ -z "$step" ] || kill -USR1 "$step"' USR1
{5} {6} train "$run/config.yaml" --output "$run/run" &
step=$!
while true; do
  wait "$step"
  status=$?
  kill -0 "$step" 2>/dev/null || break  # else it was the signal that ended the wait
done
if $stopping && {{ [ "$status" = 3 ] || [ "$status" -gt 128 ]; }}; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
  exit 0
fi
exit "$status"
)",
      plan.runs.size(), options.jobs, plan.runs.size() - 1, quoted(root), names, launch,
      quoted(options.program.string()));
}

}  // namespace wuneng::trainer::ablate
