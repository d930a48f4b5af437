// What a run trains on and is validated with: a corpus, or a task.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "data/samples.h"
#include "model/language_model.h"
#include "parallel/communicator.h"
#include "trainer/config.h"
#include "trainer/evaluation.h"

namespace wuneng::trainer {

class RunData {
 public:
  virtual ~RunData() = default;

  virtual const data::Samples& training() const = 0;
  virtual std::int64_t samples_per_epoch() const = 0;  // 0: samples never come again
  virtual std::uint64_t hash() const = 0;              // a resumed run must have the same
  virtual std::string setting() const = 0;             // "data.train = PREFIX": where it came from
  virtual std::string description() const = 0;         // a few words for the log
  virtual std::string tokenizer_text() const = 0;      // JSON; empty when there is none
  virtual bool has_validation() const = 0;

  // All ranks of `data_group` call it; the same on each, to the bit.
  virtual Evaluation validate(const model::LanguageModel& model,
                              parallel::Communicator& data_group) const = 0;
};

// Throws UsageError as Corpus, TrainingSampler and data::TaskExamples do, and when data.train is needed and
// not set.
std::unique_ptr<RunData> make_run_data(const Config& config);

}  // namespace wuneng::trainer
