// The checkpoints of a run: where it goes on from, when one is made, and what happens when that fails.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "common/log.h"
#include "parallel/world.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/saver.h"
#include "trainer/checkpoint/sharding.h"
#include "trainer/config.h"
#include "trainer/run_clock.h"
#include "trainer/run_data.h"

namespace wuneng::trainer {

// What training changes, as this rank holds it.
struct TrainedState {
  const parallel::Parameters* parameters;
  const parallel::FlatLayout* layout;
  AdamW* optimizer;
  TensorRank tensor;
};

// All ranks make the same calls. What it is given must outlive it.
class RunCheckpoints {
 public:
  RunCheckpoints(const Config& config, const parallel::ParallelConfig& mesh, const RunData& data,
                 const std::filesystem::path& folder, parallel::World& world, TrainedState state);

  // Fills the state from the newest checkpoint, or, where there is none, the parameters from
  // trainer.init.from, or nothing. Throws AgreedError for damaged checkpoints and those of other data, and
  // where none of them can be read.
  Position resume();
  const std::string& origin() const { return origin_; }  // where that came from, for the log

  // From here on it saves. `before_error` is called before an error goes to the log.
  void open(Logger logger, std::function<void()> before_error);

  // Begins a checkpoint of this step, unless there is one. A save that failed ends the run with AgreedError
  // or is said, as trainer.checkpoint.on_failure says, here or at the next step.
  void save(const Position& position, std::optional<double> validation_loss);
  // The same before the run ends: returns when it is there, and a failure ends the run in any case.
  void save_last(const Position& position, std::optional<double> validation_loss);
  void abandon();  // waits for the save in flight, before the run ends with another error
  bool due(std::int64_t step) const;

  // After each step: the strongest request of any rank; rank 0 asks for what the clock asks.
  Request agree_on(Request mine);
  RunClock& clock() { return clock_; }
  bool time_is_up() const { return clock_.time_is_up(now()); }

 private:
  bool resume_from(const std::string& folder);
  void load(const Checkpoint& checkpoint, Checkpoint::Hashes hashes);
  void begin_from_other_model();
  void take_tokenizer(const std::string& stored, const std::string& place);
  CheckpointInfo info(const Position& position, std::optional<double> validation_loss) const;
  Shard shard() const;
  bool needed(const Position& position);
  void finish(CheckpointConfig::OnFailure then);
  void take(const std::optional<CheckpointSaver::Outcome>& outcome);
  void face_failure(CheckpointConfig::OnFailure then);
  double now() const;  // seconds of this run

  const Config& config_;
  const parallel::ParallelConfig& mesh_;
  const RunData& data_;
  std::filesystem::path folder_;
  parallel::World& world_;
  TrainedState state_;
  Position position_;  // that was resumed from
  std::string origin_;
  std::string tokenizer_;  // JSON; the data's, or where that has none the model's; empty when unknown

  Logger logger_;
  std::function<void()> before_error_;
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
  RunClock clock_;
  std::optional<CheckpointSaver> saver_;
  std::int64_t saved_ = -1;  // step of the last checkpoint
  std::string failure_;      // why it could not be written
};

}  // namespace wuneng::trainer
