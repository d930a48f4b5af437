// The configuration of a run: strict YAML in, one struct out. trainer/config_keys.cpp holds the one table
// that checks the file, fills the struct, prints the resolved configuration and writes `wuneng help config`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/config.h"
#include "model/config.h"
#include "parallel/config.h"
#include "trainer/optimizer.h"

namespace wuneng::trainer {

struct CheckpointConfig {
  std::int64_t every = 0;          // steps between checkpoints; 0: none for that
  std::int64_t every_minutes = 0;  // the same by the clock; one is made at the end and on signals anyway
  std::int64_t keep = 2;           // newest checkpoints kept; 0: all
  std::int64_t keep_every = 0;     // those of every nth step are kept for ever; 0: none for that
  std::int64_t keep_best = 0;      // so many of those with the lowest validation loss are kept
  enum class OnFailure { stop, go_on } on_failure = OnFailure::stop;  // when one cannot be written
  bool fall_back = false;  // resume from the one before a damaged one
};

// A model to begin from, with a fresh optimizer at the start of the data.
struct InitConfig {
  std::string from;    // checkpoint, run folder or exported .safetensors; empty: a fresh model
  std::string fresh;   // patterns of tensors that it need not have
  std::string unused;  // patterns of tensors that the model need not have
};

// Seconds that a rank may spend without any progress before the watchdog ends the job; 0: for ever.
struct StuckAfterConfig {
  std::int64_t start = 1800;  // reading the corpus and the checkpoint
  std::int64_t data = 600;
  std::int64_t compute = 600;  // forward, backward, optimizer
  std::int64_t collective = 600;
  std::int64_t validation = 1800;
  std::int64_t checkpoint = 1800;
};

struct TrainerConfig {
  std::int64_t steps = 1000;
  std::int64_t global_batch = 16;   // sequences per step, over all ranks
  std::int64_t micro_batch = 4;     // sequences per forward and backward pass
  std::int64_t validate_every = 0;  // steps; 0: only at the end
  std::int64_t log_every = 10;      // steps between lines in the log; metrics.jsonl has every step
  std::int64_t threads = 0;         // per process; 0: the cores of the node divided by its processes
  std::int64_t time_limit = 0;      // seconds; the run saves and stops before they are over; 0: none
  std::int64_t grace = 0;           // seconds that a run told to end may take to save; 0: any time
  CheckpointConfig checkpoint;
  InitConfig init;
  StuckAfterConfig stuck_after;
};

struct Config {
  std::int64_t seed = 0;
  model::ModelConfig model;
  data::DataConfig data;
  parallel::ParallelConfig parallel;
  OptimizerConfig optimizer;
  TrainerConfig trainer;
};

// Reads `file`, the files it extends (`extends: other.yaml`, relative to itself; nearer wins), then the
// overrides "a.b.c=value". Unknown, duplicate or misspelt keys, wrong types and values out of range throw
// UsageError with file, line, key, value, allowed set and nearest spelling; so do combinations that no single
// key can judge (check(Config)).
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

// Parses a resolved configuration as to_yaml() wrote it; `place` stands for the file name in errors.
Config parse_config(const std::string& yaml, const std::string& place);

// Every key with its value, in the order of the table, floats round-trip.
std::string to_yaml(const Config& config);

// Checks combinations: divisibility of batch, micro-batch and heads, model::check ... Throws UsageError with
// the numbers.
void check(const Config& config);

// Throws UsageError with the numbers when so many tensor-parallel ranks cannot split the sequences as
// parallel.sequence asks.
void check_sequence(const Config& config, std::int64_t ranks);

// Every key with type, default, range or choices, unit and one line of explanation.
std::string describe_config_keys();

// Keys whose values differ and which a resumed run must share (all but those the table marks as free to
// change, such as trainer.steps or parallel.data), as "key: ours -> theirs" lines.
std::vector<std::string> differences(const Config& ours, const Config& theirs);

// Hash of the values of all keys that a resumed run must share: equal exactly when differences() is empty.
std::uint64_t identity_hash(const Config& config);

}  // namespace wuneng::trainer
