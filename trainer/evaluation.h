#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/json.h"
#include "data/samples.h"
#include "data/tasks/task_set.h"
#include "data/tokenizer.h"
#include "model/language_model.h"
#include "parallel/communicator.h"

namespace wuneng::trainer {

// One metric of a task (data::Metric) on one of its tests.
struct Accuracy {
  std::string metric;  // "accuracy"
  std::string test;    // "128": tokens, or "256:64": tokens and count
  double value = 0.0;  // 0..1; NaN where no example counts
};

struct Evaluation {
  double loss = 0.0;  // mean over real tokens, nats; of a task: of its first test, at the training length
  std::int64_t tokens = 0;           // real tokens
  std::int64_t bytes = 0;            // of text that these tokens stand for; 0 when the tokenizer is unknown
  std::vector<Accuracy> accuracies;  // of a task, test by test

  double perplexity() const;
  std::optional<double> bits_per_byte() const;
};

// The loss over a whole corpus, micro-batch by micro-batch, shared by the ranks of `data_group`. The sum runs
// in the order of the micro-batches whatever the number of ranks, so every rank count gives the same bits.
// `tokenizer` may be null.
Evaluation evaluate(const model::LanguageModel& model, const data::FiniteSamples& samples,
                    std::int64_t micro_batch, const data::Tokenizer* tokenizer,
                    parallel::Communicator& data_group);

// Loss and accuracies of a task's tests, shared and added in the same way. An answer is the id of the largest
// logit, the lowest where several are.
Evaluation evaluate_task(const model::LanguageModel& model, std::span<const data::TaskTest> tests,
                         std::int64_t micro_batch, parallel::Communicator& data_group);

// {"accuracy": {"64": 0.99, "128": 0.7}, ...}: an object for each metric; NaN becomes null. Empty for a
// corpus.
Json accuracy_json(const Evaluation& evaluation);
// "  accuracy 64: 0.990, 128: 0.700" for the log; empty for a corpus.
std::string accuracy_text(const Evaluation& evaluation);

// Sum of losses [n] in double precision, in order.
double sum_in_order(const at::Tensor& losses);

}  // namespace wuneng::trainer
