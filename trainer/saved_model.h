#pragma once

#include <filesystem>
#include <memory>

#include "data/tokenizer.h"
#include "model/language_model.h"
#include "parallel/communicator.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config.h"

namespace wuneng::trainer {

// A trained model read back from a checkpoint.
struct SavedModel {
  // `path`: a checkpoint folder, or a run folder, whose newest checkpoint is taken. Throws UsageError as
  // Checkpoint does.
  SavedModel(const std::filesystem::path& path, parallel::Communicator& tensor_group,
             at::Device device = at::kCPU);

  const data::Tokenizer& require_tokenizer()
      const;  // throws UsageError when the training corpus came without one

  std::filesystem::path folder;
  Position position;
  Config config;
  std::unique_ptr<data::Tokenizer> tokenizer;  // may be null
  model::LanguageModel model;

 private:
  SavedModel(const Checkpoint& checkpoint, parallel::Communicator& tensor_group, at::Device device);
};

// The checkpoint folder that `path` means: itself, or the newest one of the run folder.
std::filesystem::path resolve_checkpoint(const std::filesystem::path& path);

}  // namespace wuneng::trainer
