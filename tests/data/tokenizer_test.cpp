#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"
#include "tests/data/text_support.h"
#include "tests/support/scratch.h"

namespace wuneng::data {
namespace {

using namespace std::string_literals;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;

std::string refusal(const std::string& json) {
  return message_of<UsageError>([&] { tokenizer_from_json(Json::parse(json), "some.json"); });
}

TEST(Tokenizer, BytesAreTheirOwnIds) {
  const auto tokenizer = make_tokenizer("bytes");
  EXPECT_THAT(tokenizer->encode("A\0\xff"s), ElementsAre(65, 0, 255));
  EXPECT_EQ(tokenizer->vocab_size(), 257);
  EXPECT_EQ(tokenizer->end_of_document(), 256);
  for (int id = 0; id < 256; ++id) EXPECT_EQ(tokenizer->bytes_of(id), std::string(1, static_cast<char>(id)));
  EXPECT_EQ(tokenizer->to_json().dump(), R"({"type":"bytes"})");
}

TEST(Tokenizer, EveryTextComesBackByteForByte) {
  const std::string text = tests::every_byte() + "the cat the cat the cat 11 11 \xc3\xa9\xc3\xa9 \n\n\n\n";
  for (const auto& tokenizer : {make_tokenizer("bytes"), train_bpe(text, 262)})
    for (const std::string& hard : tests::hard_texts()) {
      const auto ids = tokenizer->encode(hard);
      EXPECT_EQ(tokenizer->decode(ids), hard);
      for (const auto id : ids) EXPECT_TRUE(id >= 0 && id < tokenizer->end_of_document());
    }
}

TEST(Tokenizer, TheEndOfADocumentStandsForNoText) {
  for (const auto& tokenizer : {make_tokenizer("bytes"), train_bpe("abab", 258)}) {
    const std::int32_t end = tokenizer->end_of_document();
    EXPECT_EQ(end, tokenizer->vocab_size() - 1);
    EXPECT_EQ(tokenizer->bytes_of(end), "");
    EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{'a', end, 'b', end}), "ab");
  }
}

TEST(Tokenizer, IdsOutsideTheVocabularyAreNamed) {
  for (const auto& tokenizer : {make_tokenizer("bytes"), train_bpe("abab", 258)})
    for (const std::int32_t id :
         {-1, static_cast<std::int32_t>(tokenizer->vocab_size()), INT32_MAX, INT32_MIN})
      EXPECT_THAT(message_of<Error>([&] { tokenizer->bytes_of(id); }),
                  HasSubstr(fmt::format("token id {} ", id)));
}

TEST(Tokenizer, ItsFileMakesTheSameTokenizer) {
  const Scratch scratch;
  for (const auto& tokenizer : {make_tokenizer("bytes"), train_bpe("the cat and the hat and the rat", 264)}) {
    write_file_atomically(scratch / "tokenizer.json", tokenizer->to_json().dump());
    const auto again = make_tokenizer((scratch / "tokenizer.json").string());
    EXPECT_EQ(again->to_json(), tokenizer->to_json());
    EXPECT_EQ(again->vocab_size(), tokenizer->vocab_size());
    for (std::int32_t id = 0; id < tokenizer->vocab_size(); ++id)
      EXPECT_EQ(again->bytes_of(id), tokenizer->bytes_of(id));
    for (const std::string& hard : tests::hard_texts())
      EXPECT_EQ(again->encode(hard), tokenizer->encode(hard));
  }
}

TEST(Tokenizer, AnUnknownNameOrBrokenFileIsNamed) {
  const Scratch scratch;
  const std::string file = (scratch / "broken.json").string();
  EXPECT_THAT(message_of<UsageError>([&] { make_tokenizer(file); }),
              AllOf(HasSubstr(file), HasSubstr("bytes"), HasSubstr("--train")));
  for (const std::string text : {"", "{\"type\": \"by", "[1]", "{}"}) {
    std::filesystem::remove(file);
    write_file_atomically(file, text);
    EXPECT_THAT(message_of<UsageError>([&] { make_tokenizer(file); }), HasSubstr(file)) << text;
  }
}

TEST(Tokenizer, BadJsonIsNamedWithPlaceAndIndex) {
  for (const std::string& json : {"[]"s, "null"s, "\"bytes\""s, "{}"s, R"({"type": 3})"s})
    EXPECT_THAT(refusal(json), AllOf(HasSubstr("some.json"), HasSubstr("\"type\""))) << json;
  EXPECT_THAT(refusal(R"({"type": "unigram"})"),
              AllOf(HasSubstr("some.json"), HasSubstr("\"unigram\""), HasSubstr("bpe, bytes")));
  for (const std::string& json :
       {R"({"type": "bpe"})"s, R"({"type": "bpe", "merges": "ab"})"s, R"({"type": "bpe", "merges": {}})"s})
    EXPECT_THAT(refusal(json), AllOf(HasSubstr("some.json"), HasSubstr("\"merges\""))) << json;
  for (const std::string entry :
       {"[97,257]", "[257,97]", "[258,3]", "[97]", "[]", "[97,98,99]", "\"ab\"", "97", "null", "[97,\"b\"]",
        "[-1,97]", "[97,-1]", "[1.5,97]", "[true,97]", "[97,18446744073709551615]",
        "[9223372036854775808,97]", "{\"0\":97,\"1\":98}"})
    EXPECT_THAT(refusal(R"({"type": "bpe", "merges": [[97,98],)" + entry + "]}"),
                AllOf(HasSubstr("some.json"), HasSubstr("merge 1 is " + entry), HasSubstr("below 257")));
  EXPECT_THAT(refusal(R"({"type": "bpe", "merges": [[97,256]]})"),
              AllOf(HasSubstr("merge 0 is [97,256]"), HasSubstr("below 256")));
}

}  // namespace
}  // namespace wuneng::data
