#pragma once

#include <cstdint>
#include <optional>

#include "data/sampler.h"
#include "data/tokenizer.h"
#include "model/language_model.h"
#include "parallel/communicator.h"

namespace wuneng::trainer {

struct Evaluation {
  double loss = 0.0;        // mean over real tokens, nats
  std::int64_t tokens = 0;  // real tokens
  std::int64_t bytes = 0;   // of text that these tokens stand for; 0 when the tokenizer is unknown

  double perplexity() const;
  std::optional<double> bits_per_byte() const;
};

// The loss over a whole corpus, micro-batch by micro-batch, shared by the ranks of `data_group`. The sum runs
// in the order of the micro-batches whatever the number of ranks, so every rank count gives the same bits.
// `tokenizer` may be null.
Evaluation evaluate(const model::LanguageModel& model, const data::EvaluationSampler& sampler,
                    std::int64_t micro_batch, const data::Tokenizer* tokenizer,
                    parallel::Communicator& data_group);

// Sum of losses [n] in double precision, in order.
double sum_in_order(const at::Tensor& losses);

}  // namespace wuneng::trainer
