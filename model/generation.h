// Generation token by token: states and caches are carried, so a token costs the same however often text was
// read before.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/language_model.h"

namespace wuneng::model {

struct SamplingConfig {
  double temperature = 1.0;  // 0: always the likeliest token
  std::int64_t top_k = 0;    // only the k likeliest; 0: all
  double top_p = 1.0;        // only the likeliest ones that together reach this probability
  std::uint64_t seed = 0;
};

// Draws from softmax(logits / temperature) cut to top_k and top_p. logits [V] float32. `uniform` in [0, 1)
// decides.
std::int64_t sample(const at::Tensor& logits, const SamplingConfig& config, double uniform);

class Generator {
 public:
  Generator(const LanguageModel& model, const SamplingConfig& config) : model_(model), config_(config) {}

  void read(std::span<const std::int32_t> tokens);  // the prompt; may be called again
  std::int32_t next();  // draws one token and reads it. The prompt must not be empty.

 private:
  const LanguageModel& model_;
  SamplingConfig config_;
  ModelState state_;
  at::Tensor logits_;  // [V] after the last token read
  std::uint64_t drawn_ = 0;
};

}  // namespace wuneng::model
