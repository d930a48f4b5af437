#include "data/bpe.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>

#include "common/check.h"

namespace wuneng::data {
namespace {

constexpr std::int32_t no_merge = std::numeric_limits<std::int32_t>::max();

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

bool continues_character(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }  // in UTF-8

std::vector<std::int32_t> ids_of_bytes(std::string_view word) {
  std::vector<std::int32_t> ids;
  ids.reserve(word.size());
  for (const char c : word) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// A distinct word of the training text, as the ids it is made of so far.
struct Word {
  std::vector<std::int32_t> ids;
  std::int64_t count = 0;
};

// The pairs of neighbouring ids in all words, kept up to date while pairs are merged.
class PairCounts {
 public:
  explicit PairCounts(std::vector<Word> words) : words_(std::move(words)) {
    for (std::size_t w = 0; w < words_.size(); ++w)
      for (std::size_t i = 0; i + 1 < words_[w].ids.size(); ++i)
        add(words_[w].ids[i], words_[w].ids[i + 1], w);
    queue_new_pairs();
  }

  // Takes out the most frequent pair; of equals the one with the smaller ids. None when no pair occurs twice.
  std::optional<Merge> most_frequent() {
    while (!queue_.empty()) {
      const Entry top = queue_.top();
      queue_.pop();
      const std::int64_t count = pairs_.at(top.key).count;
      if (count < top.count) {  // merges only ever lower the count of a pair that is in the queue
        queue_.push({count, top.key});
        continue;
      }
      if (count < 2) return std::nullopt;
      return Merge(static_cast<std::int32_t>(top.key >> 32),
                   static_cast<std::int32_t>(top.key & 0xffffffffu));
    }
    return std::nullopt;
  }

  void merge(const Merge& pair, std::int32_t made) {
    const std::vector<std::size_t> holders = std::move(pairs_.at(key_of(pair.first, pair.second)).words);
    for (const std::size_t w : holders) merge_in(w, pair, made);
    pairs_.erase(key_of(pair.first, pair.second));
    queue_new_pairs();
  }

 private:
  struct Pair {
    std::int64_t count = 0;
    std::vector<std::size_t> words;  // that hold the pair, or once did
  };
  struct Entry {
    std::int64_t count;
    std::uint64_t key;
    bool operator<(const Entry& other) const {
      return count != other.count ? count < other.count : key > other.key;
    }
  };

  // The counts are those of the word as it stands after each replacement, so neighbouring matches need no
  // special case.
  void merge_in(std::size_t w, const Merge& pair, std::int32_t made) {
    std::vector<std::int32_t>& ids = words_[w].ids;
    std::size_t out = 0;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (i + 1 == ids.size() || ids[i] != pair.first || ids[i + 1] != pair.second) {
        ids[out++] = ids[i];
        continue;
      }
      remove(pair.first, pair.second, w);
      if (out > 0) {
        remove(ids[out - 1], pair.first, w);
        add(ids[out - 1], made, w);
      }
      if (i + 2 < ids.size()) {
        remove(pair.second, ids[i + 2], w);
        add(made, ids[i + 2], w);
      }
      ids[out++] = made;
      ++i;
    }
    ids.resize(out);
  }

  void add(std::int32_t left, std::int32_t right, std::size_t w) {
    const auto [entry, fresh] = pairs_.try_emplace(key_of(left, right));
    if (fresh) new_pairs_.push_back(entry->first);
    entry->second.count += words_[w].count;
    std::vector<std::size_t>& holders = entry->second.words;
    if (holders.empty() || holders.back() != w) holders.push_back(w);
  }

  void remove(std::int32_t left, std::int32_t right, std::size_t w) {
    pairs_.at(key_of(left, right)).count -= words_[w].count;
  }

  void queue_new_pairs() {
    for (const std::uint64_t key : new_pairs_) queue_.push({pairs_.at(key).count, key});
    new_pairs_.clear();
  }

  std::vector<Word> words_;
  std::unordered_map<std::uint64_t, Pair> pairs_;
  std::vector<std::uint64_t> new_pairs_;  // not yet in the queue
  std::priority_queue<Entry> queue_;      // every pair once, with its count at some time
};

std::vector<Word> distinct_words(std::string_view text) {
  std::unordered_map<std::string_view, std::size_t> index;
  std::vector<Word> words;
  while (!text.empty()) {
    const std::string_view word = first_word(text);
    text.remove_prefix(word.size());
    const auto [entry, fresh] = index.try_emplace(word, words.size());
    if (fresh) words.push_back({ids_of_bytes(word), 0});
    ++words[entry->second].count;
  }
  return words;
}

std::vector<Merge> merges_from(const Json& json, std::string_view place) {
  WN_REQUIRE(json.contains("merges") && json["merges"].is_array(),
             "{}: a bpe tokenizer needs a list \"merges\"", place);
  std::vector<Merge> merges;
  std::vector<std::size_t> lengths(256, 1);  // of every id, in bytes
  for (const Json& entry : json["merges"]) {
    const auto known = static_cast<std::int64_t>(lengths.size());
    const auto id = [&](std::size_t i) {
      return entry[i].is_number_integer() ? entry[i].get<std::int64_t>() : -1;
    };
    WN_REQUIRE(
        entry.is_array() && entry.size() == 2 && id(0) >= 0 && id(0) < known && id(1) >= 0 && id(1) < known,
        "{}: merge {} is {}, expected two ids below {}", place, merges.size(), entry.dump(), known);
    merges.emplace_back(static_cast<std::int32_t>(id(0)), static_cast<std::int32_t>(id(1)));
    lengths.push_back(lengths[merges.back().first] + lengths[merges.back().second]);
    WN_REQUIRE(lengths.back() <= longest_word,
               "{}: merge {} makes a token of {} bytes, longer than any word ({})", place, merges.size() - 1,
               lengths.back(), longest_word);
  }
  return merges;
}

}  // namespace

std::string_view first_word(std::string_view text) {
  if (text.empty()) return text;
  const bool space_in_front = text.size() > 1 && text[0] == ' ' && kind_of(text[1]) != Kind::line_break;
  std::size_t end = space_in_front ? 1 : 0;
  const Kind kind = kind_of(text[end]);
  while (end < text.size() && end <= longest_word && kind_of(text[end]) == kind) ++end;
  if (end > longest_word) {
    end = longest_word;
    for (int back = 0; back < 3 && continues_character(text[end]); ++back) --end;
    return text.substr(0, end);
  }
  // A run of spaces leaves its last one to the word that follows.
  if (kind == Kind::space && end > 1 && end < text.size() && kind_of(text[end]) != Kind::line_break) --end;
  return text.substr(0, end);
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
  while (!text.empty()) {
    const std::string_view word = first_word(text);
    text.remove_prefix(word.size());
    const auto [entry, fresh] = known.try_emplace(word);
    if (fresh) entry->second = encode_word(word);
    ids.insert(ids.end(), entry->second.begin(), entry->second.end());
  }
  return ids;
}

// Merging the first pair of lowest rank, one at a time, is merging all of them from the left: what a merge
// makes is only in pairs of higher rank.
std::vector<std::int32_t> BpeTokenizer::encode_word(std::string_view word) const {
  std::vector<std::int32_t> ids = ids_of_bytes(word);
  std::vector<std::int32_t> ranks;  // of the pair of each id and the next
  for (std::size_t i = 0; i + 1 < ids.size(); ++i) ranks.push_back(rank_of(ids[i], ids[i + 1]));
  while (!ranks.empty()) {
    const auto lowest = std::min_element(ranks.begin(), ranks.end());
    if (*lowest == no_merge) break;
    const std::ptrdiff_t i = lowest - ranks.begin();
    ids[i] = 256 + *lowest;
    ids.erase(ids.begin() + i + 1);
    ranks.erase(lowest);
    if (i > 0) ranks[i - 1] = rank_of(ids[i - 1], ids[i]);
    if (i + 1 < std::ssize(ids)) ranks[i] = rank_of(ids[i], ids[i + 1]);
  }
  return ids;
}

std::int32_t BpeTokenizer::rank_of(std::int32_t left, std::int32_t right) const {
  const auto found = rank_.find(key_of(left, right));
  return found == rank_.end() ? no_merge : found->second;
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
  PairCounts pairs(distinct_words(text));
  std::vector<Merge> merges;
  while (static_cast<std::int64_t>(merges.size()) < vocab_size - 257) {
    const std::optional<Merge> pair = pairs.most_frequent();
    if (!pair) break;
    pairs.merge(*pair, static_cast<std::int32_t>(256 + merges.size()));
    merges.push_back(*pair);
  }
  WN_REQUIRE(static_cast<std::int64_t>(merges.size()) == vocab_size - 257,
             "a vocabulary of {} ids was asked for, but the text has only {} pairs worth merging; ask for {} "
             "or fewer, or give more text",
             vocab_size, merges.size(), merges.size() + 257);
  return std::make_unique<BpeTokenizer>(std::move(merges));
}

}  // namespace wuneng::data
