#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/token_file.h"
#include "data/tokenizer.h"

namespace wuneng::trainer {

// A tokenised corpus and, where PREFIX.tokenizer.json lies beside it, the tokenizer that made it.
struct Corpus {
  // Throws UsageError as TokenFile does, and when the tokenizer's vocabulary is larger than the model's.
  Corpus(const std::filesystem::path& prefix, std::int64_t vocab_size);

  std::string tokenizer_text() const;  // JSON; empty when there is none

  data::TokenFile tokens;
  std::unique_ptr<data::Tokenizer> tokenizer;
};

}  // namespace wuneng::trainer
