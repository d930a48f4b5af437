#include "data/bpe.h"

#include <nlohmann/json.hpp>
#include <queue>
#include <set>

#include "common/check.h"

namespace wuneng::data {
namespace {

enum class Kind { letter, digit, space, line_break, sign };

Kind kind_of(char c) {
  const auto byte = static_cast<unsigned char>(c);
  if (byte >= 128 || (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z')) return Kind::letter;
  if (byte >= '0' && byte <= '9') return Kind::digit;
  if (byte == ' ') return Kind::space;
  if (byte == '\n' || byte == '\r') return Kind::line_break;
  return Kind::sign;
}

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

// A distinct word of the training text, as the ids it is made of so far.
struct Word {
  std::vector<std::int32_t> ids;
  std::int64_t count;
};

// The pairs of neighbouring ids in all words, kept up to date while words are merged.
class PairCounts {
 public:
  explicit PairCounts(std::vector<Word>& words) : words_(words) {
    for (std::size_t w = 0; w < words.size(); ++w) add(w, +1);
    for (const auto& [key, count] : counts_) queue_.push({count, key});
  }

  // The most frequent pair; of equals the one with the smaller ids. None when no pair is left that occurs
  // twice.
  bool most_frequent(Merge& pair) {
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      const auto found = counts_.find(top.key);
      if (found != counts_.end() && found->second == top.count) {  // else it is out of date
        if (top.count < 2) return false;
        pair = {static_cast<std::int32_t>(top.key >> 32), static_cast<std::int32_t>(top.key & 0xffffffffu)};
        return true;
      }
      queue_.pop();
    }
    return false;
  }

  void merge(const Merge& pair, std::int32_t made) {
    std::set<std::uint64_t> changed;
    const std::vector<std::size_t> holders(where_[key_of(pair.first, pair.second)].begin(),
                                           where_[key_of(pair.first, pair.second)].end());
    for (const std::size_t w : holders) {
      collect(w, changed);
      add(w, -1);
      replace(words_[w].ids, pair, made);
      add(w, +1);
      collect(w, changed);
    }
    counts_.erase(key_of(pair.first, pair.second));
    for (const std::uint64_t key : changed)
      if (const auto found = counts_.find(key); found != counts_.end()) queue_.push({found->second, key});
  }

  static void replace(std::vector<std::int32_t>& ids, const Merge& pair, std::int32_t made) {
    std::size_t out = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const bool match = i + 1 < ids.size() && ids[i] == pair.first && ids[i + 1] == pair.second;
      ids[out++] = match ? made : ids[i];
      i += match;
    }
    ids.resize(out);
  }

 private:
  struct Entry {
    std::int64_t count;
    std::uint64_t key;
    bool operator<(const Entry& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  void add(std::size_t w, std::int64_t sign) {
    const Word& word = words_[w];
    for (std::size_t i = 0; i + 1 < word.ids.size(); ++i) {
      const std::uint64_t key = key_of(word.ids[i], word.ids[i + 1]);
      counts_[key] += sign * word.count;
      if (sign > 0) where_[key].insert(w);
    }
  }

  void collect(std::size_t w, std::set<std::uint64_t>& keys) const {
    const std::vector<std::int32_t>& ids = words_[w].ids;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) keys.insert(key_of(ids[i], ids[i + 1]));
  }

  std::vector<Word>& words_;
  std::unordered_map<std::uint64_t, std::int64_t> counts_;
  std::unordered_map<std::uint64_t, std::set<std::size_t>> where_;  // words that hold the pair, or once did
  std::priority_queue<Entry> queue_;
};

std::vector<Merge> merges_from(const Json& json, std::string_view place) {
  WN_REQUIRE(json.contains("merges") && json["merges"].is_array(),
             "{}: a bpe tokenizer needs a list \"merges\"", place);
  std::vector<Merge> merges;
  for (const Json& entry : json["merges"]) {
    const auto known = static_cast<std::int64_t>(256 + merges.size());
    const auto id = [&](std::size_t i) {
      return entry[i].is_number_integer() ? entry[i].get<std::int64_t>() : -1;
    };
    WN_REQUIRE(
        entry.is_array() && entry.size() == 2 && id(0) >= 0 && id(0) < known && id(1) >= 0 && id(1) < known,
        "{}: merge {} is {}, expected two ids below {}", place, merges.size(), entry.dump(), known);
    merges.emplace_back(static_cast<std::int32_t>(id(0)), static_cast<std::int32_t>(id(1)));
  }
  return merges;
}

}  // namespace

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = begin;
    const bool space_in_front =
        text[begin] == ' ' && begin + 1 < text.size() && kind_of(text[begin + 1]) != Kind::line_break;
    if (space_in_front) ++end;
    const Kind kind = kind_of(text[end]);
    while (end < text.size() && kind_of(text[end]) == kind) ++end;
    // A run of spaces leaves its last one to the word that follows.
    if (kind == Kind::space && end < text.size() && end - begin > 1 && kind_of(text[end]) != Kind::line_break)
      --end;
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

BpeTokenizer::BpeTokenizer(std::vector<Merge> merges) : merges_(std::move(merges)) {
  for (int byte = 0; byte < 256; ++byte) bytes_.emplace_back(1, static_cast<char>(byte));
  for (std::size_t i = 0; i < merges_.size(); ++i) {
    const auto [left, right] = merges_[i];
    rank_.emplace(key_of(left, right), static_cast<std::int32_t>(i));
    bytes_.push_back(bytes_[left] + bytes_[right]);
  }
  bytes_.emplace_back();  // the end of a document stands for no text
}

BpeTokenizer::BpeTokenizer(const Json& json, std::string_view place)
    : BpeTokenizer(merges_from(json, place)) {}

std::vector<std::int32_t> BpeTokenizer::encode(std::string_view text) const {
  std::unordered_map<std::string_view, std::vector<std::int32_t>> known;
  std::vector<std::int32_t> ids;
  ids.reserve(text.size() / 3);
  for (const std::string_view word : split_words(text)) {
    const auto [entry, fresh] = known.try_emplace(word);
    if (fresh) entry->second = encode_word(word);
    ids.insert(ids.end(), entry->second.begin(), entry->second.end());
  }
  return ids;
}

std::vector<std::int32_t> BpeTokenizer::encode_word(std::string_view word) const {
  std::vector<std::int32_t> ids;
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  while (ids.size() > 1) {
    std::int32_t best = static_cast<std::int32_t>(merges_.size());
    for (std::size_t i = 0; i + 1 < ids.size(); ++i)
      if (const auto found = rank_.find(key_of(ids[i], ids[i + 1])); found != rank_.end())
        best = std::min(best, found->second);
    if (best == static_cast<std::int32_t>(merges_.size())) break;
    PairCounts::replace(ids, merges_[best], 256 + best);
  }
  return ids;
}

std::string_view BpeTokenizer::bytes_of(std::int32_t token) const {
  WN_CHECK(token >= 0 && token < vocab_size(), "token id {} is outside the vocabulary 0 .. {}", token,
           vocab_size() - 1);
  return bytes_[static_cast<std::size_t>(token)];
}

Json BpeTokenizer::to_json() const { return {{"type", "bpe"}, {"merges", merges_}}; }

std::unique_ptr<Tokenizer> train_bpe(std::string_view text, std::int64_t vocab_size) {
  WN_REQUIRE(vocab_size >= 257 && vocab_size <= 1 << 20,
             "a vocabulary of {} ids was asked for; choose 257 (bytes and the end of a document) to 1048576",
             vocab_size);
  std::unordered_map<std::string_view, std::size_t> index;
  std::vector<Word> words;
  for (const std::string_view word : split_words(text)) {
    const auto [entry, fresh] = index.try_emplace(word, words.size());
    if (fresh) {
      words.push_back({{}, 0});
      for (const char c : word) words.back().ids.push_back(static_cast<unsigned char>(c));
    }
    ++words[entry->second].count;
  }
  PairCounts pairs(words);
  std::vector<Merge> merges;
  for (Merge pair;
       static_cast<std::int64_t>(merges.size()) < vocab_size - 257 && pairs.most_frequent(pair);) {
    merges.push_back(pair);
    pairs.merge(pair, static_cast<std::int32_t>(256 + merges.size() - 1));
  }
  WN_REQUIRE(static_cast<std::int64_t>(merges.size()) == vocab_size - 257,
             "a vocabulary of {} ids was asked for, but the text has only {} pairs worth merging; ask for {} "
             "or fewer, or give more text",
             vocab_size, merges.size(), merges.size() + 257);
  return std::make_unique<BpeTokenizer>(std::move(merges));
}

}  // namespace wuneng::data
