// Saves checkpoints while training goes on. Every rank of the job has one.
#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "parallel/communicator.h"
#include "trainer/checkpoint/folder.h"

namespace wuneng::trainer {

class CheckpointSaver {
 public:
  // All ranks of `world` together.
  CheckpointSaver(std::filesystem::path checkpoints, const Retention& retention,
                  parallel::Communicator& world);
  ~CheckpointSaver();  // waits for the save in flight; when an exception brings it down, breaks it off
  CheckpointSaver(const CheckpointSaver&) = delete;
  CheckpointSaver& operator=(const CheckpointSaver&) = delete;

  // Has the memory for the copy of such a shard made ready in the background: a first save without it stops
  // training for longer than the others, because fresh memory is slow.
  void prepare(const Shard& shard);

  // Copies this rank's shard and returns; the rest (writing, hashing, syncing, the manifest of rank 0,
  // retention) happens on a thread of its own. At most one save is in flight: this call waits for the one
  // before. All ranks call it, with the same info, once the last one's outcome has been taken.
  void begin(const CheckpointInfo& info, const Shard& shard);
  // The same for a run that does not train on meanwhile: without the copy where the shard is on the CPU, and
  // nobody may change it before wait() has returned.
  void begin_last(const CheckpointInfo& info, const Shard& shard);

  // How a save ended, the same on every rank.
  struct Outcome {
    std::filesystem::path folder;
    std::string error;  // empty: it is there
    double seconds = 0.0;
  };
  // Of the save that was begun last, once it has ended on this rank; each is given out once.
  std::optional<Outcome> poll();
  std::optional<Outcome> wait();  // for its end; none when no outcome is left to give out
  // Bytes that this rank keeps for its copy.
  std::size_t staging_bytes() const { return staging_.defined() ? staging_.nbytes() : 0; }

 private:
  void run();
  void start(const CheckpointInfo& info, Shard shard);
  void reserve(const Shard& shard);
  Shard copy(const Shard& shard);
  Outcome save(const CheckpointInfo& info, const Shard& shard);
  std::string agreed_error(const std::string& mine);
  Manifest gather(Manifest mine);

  std::filesystem::path checkpoints_;
  Retention retention_;
  std::unique_ptr<parallel::Communicator> group_;  // for the thread
  at::Tensor staging_;                             // memory of the copy, kept from save to save

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<std::optional<Outcome>()> work_;
  bool busy_ = false, stop_ = false;
  std::optional<Outcome> outcome_;
  std::thread thread_;
};

}  // namespace wuneng::trainer
