// Text to token ids and back. Every tokenizer is byte-exact: decode(encode(text)) == text for any bytes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/json.h"

namespace wuneng::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  // The bytes of one token; the end-of-document token has none.
  virtual std::string_view bytes_of(std::int32_t token) const = 0;
  virtual std::int64_t vocab_size() const = 0;  // ids are 0 .. vocab_size-1, the end-of-document id included
  virtual std::int32_t end_of_document() const = 0;  // ends every document in a corpus
  virtual Json to_json() const = 0;                  // everything needed to make it again

  std::string decode(std::span<const std::int32_t> tokens) const;
};

// "bytes" (ids 0-255 are the bytes, 256 ends a document) or the path of a tokenizer's JSON file
// (PREFIX.tokenizer.json or one trained by `wuneng tokenize --train`). Throws UsageError that lists what
// exists.
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_file);
std::unique_ptr<Tokenizer> tokenizer_from_json(const Json& json, std::string_view place);

// Byte-level BPE: learns merges from the text until the vocabulary (256 bytes + merges + end of document) has
// `vocab_size` ids. Text is first split into words (a run of letters, of digits, or of other signs, with one
// space in front; line breaks apart; at most 128 bytes), and merges stay inside words. Deterministic.
std::unique_ptr<Tokenizer> train_bpe(std::string_view text, std::int64_t vocab_size);

}  // namespace wuneng::data
