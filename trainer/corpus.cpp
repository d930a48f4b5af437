#include "trainer/corpus.h"

#include <nlohmann/json.hpp>

#include "common/check.h"

namespace wuneng::trainer {

Corpus::Corpus(const std::filesystem::path& prefix, std::int64_t vocab_size) : tokens(prefix, vocab_size) {
  const std::filesystem::path file = prefix.string() + ".tokenizer.json";
  if (!std::filesystem::exists(file)) return;
  tokenizer = data::make_tokenizer(file.string());
  WN_REQUIRE(tokenizer->vocab_size() <= vocab_size,
             "{}: the tokenizer has {} ids, but model.vocab_size is {}; set model.vocab_size={} or more",
             file.string(), tokenizer->vocab_size(), vocab_size, tokenizer->vocab_size());
}

std::string Corpus::tokenizer_text() const { return tokenizer ? tokenizer->to_json().dump() : std::string(); }

}  // namespace wuneng::trainer
