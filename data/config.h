#pragma once

#include <cstdint>
#include <string>

namespace wuneng::data {

// Made-up tasks whose outcome theory predicts (data/tasks/).
enum class TaskName { none, mqar, a5, s5, parity, selective_copy, state_recall, needle };

// A run on a task instead of a corpus. What `count` counts, and the published values that 0 stands for, each
// family's file in data/tasks/ says.
struct TaskConfig {
  TaskName name = TaskName::none;
  std::int64_t vocabulary = 0;       // token ids of the task; 0: as published
  std::int64_t count = 0;            // things to remember; 0: as published
  std::int64_t shortest = 0;         // tokens of the shortest training example; 0: as published
  std::int64_t pause_tokens = 0;     // tokens that wait after each element of a word problem
  bool random_filler = false;        // random tokens where there is nothing to read
  std::int64_t train_samples = 0;    // different training examples, repeated every epoch; 0: all are new
  std::int64_t test_samples = 1000;  // test examples of each length
  std::string test_lengths = {};     // further lengths to test: "128, 256:64", LENGTH or LENGTH:COUNT
};

struct DataConfig {
  std::string train;                   // prefix of the training corpus: PREFIX.bin and PREFIX.idx
  std::string validation;              // prefix of the validation corpus; empty: no validation
  std::int64_t sequence_length = 256;  // tokens
  bool separate_documents = true;      // attention and states never cross the start of a document
  TaskConfig task;
};

}  // namespace wuneng::data
