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
  double repetition_penalty =
      1.0;  // logits of tokens seen before are divided by it, or multiplied if negative
  std::uint64_t seed = 0;
};

// Draws from softmax(logits / temperature) cut to top_k and top_p, after the penalty on the tokens `seen`
// (arXiv 1909.05858, section 4.1). logits [V] float32. `uniform` in [0, 1) decides.
std::int64_t sample(const at::Tensor& logits, const SamplingConfig& config, double uniform,
                    std::span<const std::int32_t> seen = {});

// Goes on from one or several texts at once. Texts of different length are aligned at their ends: what fills
// a row before its text is a document of its own, which the text does not see.
class Generator {
 public:
  // Reads the prompts, none of which may be empty.
  Generator(const LanguageModel& model, const SamplingConfig& config,
            std::vector<std::vector<std::int32_t>> prompts);

  // Draws one token for each text and reads it. What is drawn for a text does not depend on the others, up to
  // the rounding of logits that are computed together.
  std::vector<std::int32_t> next();

  // Prompt and drawn tokens of each text.
  const std::vector<std::vector<std::int32_t>>& texts() const { return texts_; }

 private:
  void read_prompts();
  void read(const at::Tensor& ids, const at::Tensor& document_starts);

  const LanguageModel& model_;
  SamplingConfig config_;
  ModelState state_;
  std::vector<std::vector<std::int32_t>> texts_;
  at::Tensor logits_;  // [texts, V] after the last tokens read
  std::uint64_t drawn_ = 0;
};

}  // namespace wuneng::model
