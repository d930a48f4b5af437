// Tokenised corpora on disk, in Megatron-LM's indexed format: PREFIX.bin holds the raw tokens, PREFIX.idx
// their layout (all little-endian: "MMIDIDX\0\0", u64 version 1, u8 dtype code, u64 sequences S, u64 document
// entries D, i32[S] lengths, i64[S] byte offsets, i64[D] first sequence of each document).
// PREFIX.tokenizer.json says which tokenizer wrote the ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "common/file.h"

namespace wuneng::data {

// A corpus mapped into memory, seen as one stream of tokens in which documents follow each other.
class TokenFile {
 public:
  // Checks magic, version, dtype, sizes, offsets and document table against each other and against the length
  // of the .bin; and, with a vocabulary size, every token id. Throws UsageError with file, place, value and
  // remedy.
  explicit TokenFile(const std::filesystem::path& prefix, std::int64_t vocab_size = 0);

  std::int64_t tokens() const { return tokens_; }
  std::int64_t documents() const { return static_cast<std::int64_t>(document_starts_.size()); }
  // Stream position of each document's first token, increasing; the first is 0.
  std::span<const std::int64_t> document_starts() const { return document_starts_; }
  // Copies tokens [begin, begin + out.size()) of the stream. Throws Error when one is outside the vocabulary,
  // which it was not when the file was opened.
  void read(std::int64_t begin, std::span<std::int64_t> out) const;
  // Identity of the corpus: a hash of the whole index and of every token.
  std::uint64_t hash() const { return hash_; }
  const std::filesystem::path& prefix() const { return prefix_; }

 private:
  std::filesystem::path prefix_;
  MappedFile bin_;
  int bytes_per_token_ = 0;
  std::int64_t tokens_ = 0;
  std::vector<std::int64_t> document_starts_;
  std::uint64_t hash_ = 0;
  std::int64_t vocab_size_ = 0;  // 0: ids are not checked
};

// Writes a corpus document by document. finish() puts PREFIX.idx in place last: without it the corpus does
// not exist.
class TokenFileWriter {
 public:
  // u16 tokens when the vocabulary has at most 65,536 ids, else i32.
  TokenFileWriter(const std::filesystem::path& prefix, std::int64_t vocab_size);
  // Empty documents and ids outside the vocabulary are refused.
  void add_document(std::span<const std::int32_t> tokens);
  void finish();

 private:
  std::filesystem::path prefix_;
  std::int64_t vocab_size_;
  int bytes_per_token_;
  OutputFile bin_;
  std::vector<std::int32_t> lengths_;
};

}  // namespace wuneng::data
