#include "data/bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "tests/data/text_support.h"
#include "tests/support/scratch.h"

namespace wuneng::data {
namespace {

using namespace std::string_literals;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::message_of;
using Ids = std::vector<std::int32_t>;

std::vector<std::string_view> split_words(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    words.push_back(first_word(text));
    if (words.back().empty()) throw Error("an empty word");
    text.remove_prefix(words.back().size());
  }
  return words;
}

std::vector<Merge> merges_of(const Tokenizer& tokenizer) {
  return tokenizer.to_json()["merges"].get<std::vector<Merge>>();
}

Ids joined(Ids ids, const Merge& pair, std::int32_t made) {
  for (std::size_t i = 0; i + 1 < ids.size(); ++i)
    if (ids[i] == pair.first && ids[i + 1] == pair.second) {
      ids[i] = made;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(i) + 1);
    }
  return ids;
}

std::vector<Ids> words_as_bytes(std::string_view text) {
  std::vector<Ids> words;
  for (const std::string_view word : split_words(text)) {
    words.emplace_back();
    for (const char c : word) words.back().push_back(static_cast<unsigned char>(c));
  }
  return words;
}

// Training as the paper words it: count every pair of every word again in each round.
std::vector<Merge> slow_merges(std::string_view text, std::size_t most) {
  std::vector<Ids> words = words_as_bytes(text);
  std::vector<Merge> merges;
  while (merges.size() < most) {
    std::map<Merge, std::int64_t> counts;
    for (const Ids& word : words)
      for (std::size_t i = 0; i + 1 < word.size(); ++i) ++counts[{word[i], word[i + 1]}];
    std::pair<Merge, std::int64_t> best{{}, 1};
    for (const auto& [pair, count] : counts)
      if (count > best.second) best = {pair, count};  // of equals the first, which is the smallest
    if (best.second < 2) break;
    for (Ids& word : words) word = joined(word, best.first, static_cast<std::int32_t>(256 + merges.size()));
    merges.push_back(best.first);
  }
  return merges;
}

// Encoding without ranks: every merge in turn, over everything.
Ids slow_encode(std::string_view text, const std::vector<Merge>& merges) {
  Ids ids;
  for (Ids word : words_as_bytes(text)) {
    for (std::size_t m = 0; m < merges.size(); ++m)
      word = joined(word, merges[m], static_cast<std::int32_t>(256 + m));
    ids.insert(ids.end(), word.begin(), word.end());
  }
  return ids;
}

std::string prose(std::mt19937& random, int words) {
  const std::vector<std::string> stock{"the",    "then",    "these", "cat",  "catch",
                                       "banana", "bananas", "anna",  "aaaa", "aaaaaa",
                                       "10101",  "2024",    "...",   "!?",   "\xc3\xa9t\xc3\xa9",
                                       "\n",     "\n\n",    "  "};
  std::string text;
  for (int i = 0; i < words; ++i) {
    if (random() % 3) text += ' ';
    text += stock[random() % stock.size()];
  }
  return text;
}

std::vector<std::string> training_texts() {
  std::mt19937 random(3);
  std::vector<std::string> texts{"aaaaaaaaaaaaaaaaaaaaa", "abababab abab aba", "the cat the hat",
                                 prose(random, 40), prose(random, 400)};
  for (const std::string& alphabet : {"ab"s, "abc "s, "ab 1.\n"s, "a\0\xff \n"s})
    texts.push_back(tests::random_text(random, 400, alphabet));
  texts.push_back(std::string(1000, 'z') + "zy" + tests::random_text(random, 600, "\xc3\xa9\xa8"));
  return texts;
}

TEST(FirstWord, CutsWhereTheRulesSay) {
  EXPECT_THAT(split_words("the cat's 12 lives."), ElementsAre("the", " cat", "'", "s", " 12", " lives", "."));
  EXPECT_THAT(split_words("a1b2"), ElementsAre("a", "1", "b", "2"));
  EXPECT_THAT(split_words("a  b   c"), ElementsAre("a", " ", " b", "  ", " c"));
  EXPECT_THAT(split_words("a\n\nb \nc   \r\n d"),
              ElementsAre("a", "\n\n", "b", " ", "\n", "c", "   ", "\r\n", " d"));
  EXPECT_THAT(split_words("x  "), ElementsAre("x", "  "));
  EXPECT_THAT(split_words(" "), ElementsAre(" "));
  EXPECT_THAT(split_words("caf\xc3\xa9s \xff!\t?"), ElementsAre("caf\xc3\xa9s", " \xff", "!\t?"));
  EXPECT_THAT(split_words(""), ElementsAre());
}

TEST(FirstWord, WordsTogetherAreTheText) {
  std::mt19937 random(5);
  std::vector<std::string> texts = tests::hard_texts();
  for (int n = 0; n < 500; ++n)
    texts.push_back(tests::random_text(random, random() % 40, n % 2 ? tests::every_byte() : "a1.  \n\t"s));
  for (const std::string& text : texts) {
    std::string all;
    for (const std::string_view word : split_words(text)) {
      if (word.find_first_of("\r\n") != word.npos) {
        EXPECT_EQ(word.find_first_not_of("\r\n"), word.npos) << "a line break inside a word";
      }
      all += word;
    }
    EXPECT_EQ(all, text);
  }
}

TEST(FirstWord, LongRunsAreCutBetweenCharacters) {
  const auto sizes_of = [](const std::string& text) {
    std::vector<std::size_t> sizes;
    for (const std::string_view word : split_words(text)) sizes.push_back(word.size());
    return sizes;
  };
  const auto repeated = [](const std::string& character, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += character;
    return text;
  };
  EXPECT_THAT(sizes_of(std::string(128, 'a')), ElementsAre(128));
  EXPECT_THAT(sizes_of(std::string(300, 'a')), ElementsAre(128, 128, 44));
  EXPECT_THAT(sizes_of(' ' + std::string(128, '1') + " x"), ElementsAre(128, 1, 2));
  EXPECT_THAT(sizes_of(std::string(129, ' ') + "x"), ElementsAre(128, 2));
  EXPECT_THAT(sizes_of(std::string(128, ' ') + "x"), ElementsAre(127, 2));
  EXPECT_THAT(sizes_of(std::string(130, '\n')), ElementsAre(128, 2));
  EXPECT_THAT(sizes_of(repeated("\xc3\xa9", 65)), ElementsAre(128, 2));
  EXPECT_THAT(sizes_of(repeated("\xe6\x97\xa5", 43)), ElementsAre(126, 3));
  EXPECT_THAT(sizes_of(" " + repeated("\xf0\x9f\x98\x80", 32)), ElementsAre(125, 4));
  EXPECT_THAT(sizes_of(std::string(130, '\x80')), ElementsAre(125, 5));  // not UTF-8: cut all the same
}

TEST(Bpe, LearnsTheMergesOfASlowTrainer) {
  for (const std::string& text : training_texts()) {
    const std::vector<Merge> slow = slow_merges(text, 120);
    ASSERT_GE(slow.size(), 2u);
    EXPECT_EQ(merges_of(*train_bpe(text, 257 + static_cast<std::int64_t>(slow.size()))), slow) << text;
  }
}

// Every pair of these texts that occurs twice occurs equally often.
TEST(Bpe, OfEqualPairsTheSmallerIdsAreMergedFirst) {
  EXPECT_THAT(merges_of(*train_bpe("cd ab.cd ab.", 259)), ElementsAre(Merge(' ', 'a'), Merge('c', 'd')));
  EXPECT_THAT(merges_of(*train_bpe("zz yy zz yy", 260)),
              ElementsAre(Merge(' ', 'y'), Merge('z', 'z'), Merge(256, 'y')));
}

TEST(Bpe, TheOrderOfTheTextDoesNotMatter) {
  std::mt19937 random(9);
  std::vector<std::string> lines;
  for (int i = 0; i < 60; ++i) lines.push_back("x" + tests::random_text(random, 20, "abc 12") + "x\n");
  const auto train = [&] {
    std::string text;
    for (const std::string& line : lines) text += line;
    return train_bpe(text, 320)->to_json();
  };
  const Json first = train();
  EXPECT_EQ(train(), first);
  std::shuffle(lines.begin(), lines.end(), random);
  EXPECT_EQ(train(), first);
}

TEST(Bpe, EncodesLikeASlowEncoder) {
  std::mt19937 random(11);
  for (const std::string& text : training_texts()) {
    const std::vector<Merge> merges = slow_merges(text, 60);
    const BpeTokenizer tokenizer(merges);
    std::vector<std::string> texts = tests::hard_texts();
    texts.insert(texts.end(), {text, prose(random, 50), tests::random_text(random, 200, "aabn ")});
    for (const std::string& other : texts) {
      const Ids ids = tokenizer.encode(other);
      ASSERT_EQ(ids, slow_encode(other, merges));
      ASSERT_EQ(tokenizer.decode(ids), other);
    }
  }
}

TEST(Bpe, EachIdIsTheBytesOfItsParts) {
  const BpeTokenizer tokenizer({{'a', 'b'}, {256, 'c'}, {257, 256}});
  EXPECT_EQ(tokenizer.bytes_of(256), "ab");
  EXPECT_EQ(tokenizer.bytes_of(257), "abc");
  EXPECT_EQ(tokenizer.bytes_of(258), "abcab");
  EXPECT_EQ(tokenizer.vocab_size(), 260);
  EXPECT_THAT(tokenizer.encode("abcab abc"), ElementsAre(258, ' ', 257));
}

// A token twice as long in every merge would fill any memory.
TEST(Bpe, AMergeLongerThanAnyWordIsRefused) {
  Json merges = Json::array({{'a', 'a'}});
  for (int id = 256; id < 262; ++id) merges.push_back({id, id});
  const Json longest{{"type", "bpe"}, {"merges", merges}};
  EXPECT_THAT(BpeTokenizer(longest, "some.json").encode(std::string(128, 'a')), ElementsAre(262));
  merges.push_back({262, 'a'});
  const Json too_long{{"type", "bpe"}, {"merges", merges}};
  EXPECT_THAT(message_of<UsageError>([&] { BpeTokenizer(too_long, "some.json"); }),
              AllOf(HasSubstr("some.json"), HasSubstr("merge 7"), HasSubstr("129 bytes")));
}

TEST(Bpe, AVocabularyTooLargeForTheTextIsRefusedWithTheReachableSize) {
  for (const std::string& text : {""s, "a"s, "abc"s, "abab"s, "the cat the hat the cat"s}) {
    const auto reachable = 257 + static_cast<std::int64_t>(slow_merges(text, 1000).size());
    EXPECT_EQ(train_bpe(text, reachable)->vocab_size(), reachable);
    EXPECT_THAT(message_of<UsageError>([&] { train_bpe(text, reachable + 1); }),
                AllOf(HasSubstr(fmt::format("vocabulary of {} ids", reachable + 1)),
                      HasSubstr(fmt::format("ask for {} or fewer", reachable))));
  }
  for (const std::int64_t size :
       {std::int64_t{0}, std::int64_t{-1}, std::int64_t{256}, std::int64_t{1048577}, INT64_MAX})
    EXPECT_THAT(message_of<UsageError>([&] { train_bpe("abab", size); }),
                AllOf(HasSubstr(fmt::format("{} ids", size)), HasSubstr("choose 257")));
}

}  // namespace
}  // namespace wuneng::data
