#include "data/tokenizer.h"

#include <array>
#include <nlohmann/json.hpp>
#include <numeric>

#include "common/check.h"
#include "data/bpe.h"

namespace wuneng::data {
namespace {

// Ids 0-255 are the bytes, 256 ends a document.
class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() { std::iota(bytes_.begin(), bytes_.end(), '\0'); }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() + 1);
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  }
  std::string_view bytes_of(std::int32_t token) const override {
    WN_CHECK(token >= 0 && token <= 256, "token id {} is outside the vocabulary 0 .. 256", token);
    return token == 256 ? std::string_view() : std::string_view(&bytes_[static_cast<std::size_t>(token)], 1);
  }
  std::int64_t vocab_size() const override { return 257; }
  std::int32_t end_of_document() const override { return 256; }
  Json to_json() const override { return {{"type", "bytes"}}; }

 private:
  std::array<char, 256> bytes_;
};

}  // namespace

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) text += bytes_of(token);
  return text;
}

std::unique_ptr<Tokenizer> tokenizer_from_json(const Json& json, std::string_view place) {
  WN_REQUIRE(json.is_object() && json.contains("type") && json["type"].is_string(),
             "{}: is not a tokenizer: it has no \"type\"", place);
  const auto type = json["type"].get<std::string>();
  if (type == "bytes") return std::make_unique<ByteTokenizer>();
  if (type == "bpe") return std::make_unique<BpeTokenizer>(json, place);
  throw UsageError(fmt::format("{}: tokenizer type \"{}\" is not known; one of: bpe, bytes", place, type));
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_file) {
  if (name_or_file == "bytes") return std::make_unique<ByteTokenizer>();
  WN_REQUIRE(std::filesystem::exists(name_or_file),
             "tokenizer {}: there is no such file, and no tokenizer of this name; give bytes, or the JSON "
             "file of a tokenizer (learn one "
             "with wuneng tokenize --train SIZE --output FILE.json TEXT...)",
             name_or_file);
  return tokenizer_from_json(read_json(name_or_file), name_or_file);
}

}  // namespace wuneng::data
