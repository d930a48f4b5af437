// The folder of an ablation: what belongs to it, and who may write to it.
//
//   DIR/ablation.yaml                its file, as it was given
//   DIR/results.jsonl results.csv    every evaluation of every run    } made anew
//   DIR/report.md     report.html                                     } from the runs
//   DIR/runs/gated-seed1/            config.yaml: what `wuneng train` is given; run/: its run folder;
//                                    output.txt: what it said; record.json: how it ended, peak memory
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/ablate/plan.h"

namespace wuneng::trainer::ablate {

// How the processes of a run ended, as far as an ablation saw it.
struct RunRecord {
  int exit_code = 0;            // of the last; 128 + n when signal n ended it
  std::string message;          // its last error line; empty where it said none
  std::int64_t peak_bytes = 0;  // resident memory of its largest process; 0: unknown
  double seconds = 0.0;         // all of them together
  std::int64_t launches = 0;
};

class Folder {
 public:
  explicit Folder(std::filesystem::path path) : path_(std::move(path)) {}

  // Makes the folder, or checks that what is there belongs to this plan. An ablation may grow by seeds and
  // variants. Throws UsageError, before anything is written, when the folder is another's, or when it holds a
  // run that the plan has not or has with other settings (naming run and keys).
  void open(const Plan& plan) const;
  void check(const Plan& plan) const;  // the same without writing: it must be there

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path plan() const { return path_ / "ablation.yaml"; }
  std::filesystem::path runs() const { return path_ / "runs"; }
  std::filesystem::path of(const PlannedRun& run) const { return runs() / run.name; }
  std::filesystem::path config(const PlannedRun& run) const { return of(run) / "config.yaml"; }
  std::filesystem::path output(const PlannedRun& run) const { return of(run) / "output.txt"; }
  std::filesystem::path record(const PlannedRun& run) const { return of(run) / "record.json"; }
  std::filesystem::path train(const PlannedRun& run) const { return of(run) / "run"; }
  std::filesystem::path metrics(const PlannedRun& run) const { return train(run) / "metrics.jsonl"; }

  // Whether the run's last checkpoint is that of its last step.
  bool finished(const PlannedRun& run) const;
  std::optional<RunRecord> read_record(const PlannedRun& run) const;
  void write_record(const PlannedRun& run, const RunRecord& record) const;

 private:
  void check_present(const Plan& plan) const;

  std::filesystem::path path_;
};

// Held while runs are written. Processes that are started inherit it, so it is free again when the last of
// them is gone, whatever happened to the first.
class FolderLock {
 public:
  // Waits a few seconds for the processes of an ablation that was killed; UsageError when they stay.
  explicit FolderLock(const Folder& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace wuneng::trainer::ablate
