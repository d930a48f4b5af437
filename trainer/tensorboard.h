// RUN/tensorboard/: the curves of a run as `tensorboard --logdir RUN` shows them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/file.h"

namespace wuneng::trainer {

// An event file: records of a hand-encoded Event message (tensorflow/core/util/event.proto), each framed by
// its length and masked CRC-32Cs as TFRecord files are. Every run of the program writes a file of its own.
class TensorBoard {
 public:
  // `last_step`: the step that this run goes on from; points after it in earlier files are marked as
  // withdrawn, since the run makes them again.
  TensorBoard(const std::filesystem::path& folder, std::int64_t last_step);
  void scalar(const std::string& tag, double value, std::int64_t step);

 private:
  void write_event(const std::string& event);
  OutputFile file_;
};

}  // namespace wuneng::trainer
