// Beginning a run with the weights of another model.
#pragma once

#include <string>

#include "parallel/parameters.h"
#include "trainer/config.h"

namespace wuneng::trainer {

struct WarmStart {
  std::string summary;    // what was taken and what not, for the log
  std::string tokenizer;  // JSON of the other model's; empty when unknown
};

// Fills this rank's parameters from init.from: a checkpoint folder, a run folder (its newest checkpoint) or a
// .safetensors file of `wuneng export`. Parameters that it lacks, or has in another shape, stay as they are
// where a pattern of init.fresh names them, and tensors of it that the model lacks are left where a pattern
// of init.unused does ("*" stands for any text, "?" for one letter; commas between patterns). Everything else
// throws UsageError with names and remedy, before anything is read; so does a pattern that names nothing.
WarmStart warm_start(const InitConfig& init, const parallel::Parameters& parameters);

}  // namespace wuneng::trainer
