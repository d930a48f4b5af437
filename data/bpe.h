// Byte-level byte-pair encoding (Sennrich et al., arXiv 1508.07909, on bytes as in GPT-2).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/tokenizer.h"

namespace wuneng::data {

using Merge = std::pair<std::int32_t, std::int32_t>;  // two ids that become one

// Ids 0-255 are the bytes, 256 + i is what merge i makes, the last id ends a document.
class BpeTokenizer final : public Tokenizer {
 public:
  explicit BpeTokenizer(std::vector<Merge> merges);
  // {"type": "bpe", "merges": [[left, right], ...]}. Throws UsageError naming `place` and the first bad
  // merge.
  BpeTokenizer(const Json& json, std::string_view place);

  std::vector<std::int32_t> encode(std::string_view text) const override;
  std::string_view bytes_of(std::int32_t token) const override;
  std::int64_t vocab_size() const override { return static_cast<std::int64_t>(256 + merges_.size() + 1); }
  std::int32_t end_of_document() const override { return static_cast<std::int32_t>(256 + merges_.size()); }
  Json to_json() const override;

 private:
  std::vector<std::int32_t> encode_word(std::string_view word) const;
  std::int32_t rank_of(std::int32_t left, std::int32_t right) const;

  std::vector<Merge> merges_;
  std::unordered_map<std::uint64_t, std::int32_t> rank_;  // of a pair of ids: the lower is merged first
  std::vector<std::string> bytes_;                        // of every id
};

// The longest word in bytes: it bounds the work on text without spaces.
constexpr std::size_t longest_word = 128;

// The word that text begins with; empty only when text is. A word is a run of letters (bytes >= 128 count as
// letters), of digits, of line breaks or of other signs, each but the line breaks with one space in front
// where there is one; further spaces are words of their own. Longer runs are cut, between UTF-8 characters
// where there are any.
std::string_view first_word(std::string_view text);

}  // namespace wuneng::data
