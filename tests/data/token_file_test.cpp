#include "data/token_file.h"

#include <gmock/gmock.h>

#include <gtest/gtest.h>
#include <fstream>

#include <numeric>
#include <optional>
#include <random>
#include <set>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng::data {
namespace {

using namespace std::string_literals;
using testing::AllOf;
using testing::ElementsAre;
using testing::ElementsAreArray;
using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;

std::string little_endian(std::uint64_t value, int bytes) {
  std::string text;
  for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

// An index as Megatron-LM lays it out, built without the code under test: four sequences in three documents,
// u16 tokens.
struct Layout {
  std::string magic = "MMIDIDX\0\0"s;
  std::uint64_t version = 1;
  int code = 8;
  std::vector<std::int64_t> lengths{3, 2, 4, 1};
  std::vector<std::int64_t> offsets{0, 6, 10, 18};
  std::vector<std::int64_t> documents{0, 2, 3, 4};
  std::string modes;
  std::optional<std::uint64_t> sequences, document_entries;  // what the header says, when not the truth

  std::string bytes() const {
    std::string text = magic + little_endian(version, 8) + little_endian(static_cast<std::uint64_t>(code), 1);
    text += little_endian(sequences.value_or(lengths.size()), 8);
    text += little_endian(document_entries.value_or(documents.size()), 8);
    for (const auto length : lengths) text += little_endian(static_cast<std::uint64_t>(length), 4);
    for (const auto offset : offsets) text += little_endian(static_cast<std::uint64_t>(offset), 8);
    for (const auto document : documents) text += little_endian(static_cast<std::uint64_t>(document), 8);
    return text + modes;
  }
};

std::string tokens_of(const std::vector<std::int64_t>& tokens, int width) {
  std::string text;
  for (const auto token : tokens) text += little_endian(static_cast<std::uint64_t>(token), width);
  return text;
}

const std::vector<std::int64_t> ten{7, 1, 2, 3, 4, 5, 6, 250, 8, 9};

// A new file each time: overwriting one makes some file systems wait for the disk.
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  OutputFile(path).write(bytes);
}

void put_corpus(const Scratch& scratch, const std::string& index,
                const std::string& tokens = tokens_of(ten, 2)) {
  put(scratch / "corpus.idx", index);
  put(scratch / "corpus.bin", tokens);
}

std::vector<std::int64_t> all_tokens(const TokenFile& file) {
  std::vector<std::int64_t> tokens(static_cast<std::size_t>(file.tokens()));
  file.read(0, tokens);
  return tokens;
}

std::string refusal(const Scratch& scratch, const std::string& index) {
  put_corpus(scratch, index);
  return message_of<UsageError>([&] { TokenFile(scratch / "corpus"); });
}

void write_corpus(const std::filesystem::path& prefix, std::int64_t vocab_size,
                  const std::vector<std::vector<std::int32_t>>& documents) {
  TokenFileWriter writer(prefix, vocab_size);
  for (const auto& document : documents) writer.add_document(document);
  writer.finish();
}

TEST(TokenFile, WhatWasWrittenComesBackInBothWidths) {
  for (const std::int32_t vocab : {65536, 65537}) {
    const Scratch scratch;
    write_corpus(scratch / "deep/folder/corpus", vocab, {{0, 1, vocab - 1}, {65535}, {256, 255}});
    EXPECT_EQ(std::filesystem::file_size(scratch / "deep/folder/corpus.bin"), vocab == 65536 ? 12 : 24);
    const TokenFile file(scratch / "deep/folder/corpus", vocab);
    EXPECT_THAT(all_tokens(file), ElementsAre(0, 1, vocab - 1, 65535, 256, 255));
    EXPECT_THAT(file.document_starts(), ElementsAre(0, 3, 4));
    EXPECT_EQ(file.documents(), 3);
    EXPECT_EQ(file.prefix(), scratch / "deep/folder/corpus");
  }
}

TEST(TokenFile, TokensThatGoBadAfterTheStartAreRefused) {
  const Scratch scratch;
  write_corpus(scratch / "corpus", 300, {{7, 1, 2, 299}});
  const TokenFile file(scratch / "corpus", 300);
  std::fstream(scratch / "corpus.bin", std::ios::in | std::ios::out | std::ios::binary)
      << tokens_of({7, 1, 300}, 2);
  std::vector<std::int64_t> out(2);
  EXPECT_NO_THROW(file.read(0, out));
  EXPECT_THAT(message_of<Error>([&] { file.read(1, out); }),
              AllOf(HasSubstr("corpus.bin: token 2 now has id 300"), HasSubstr("0 .. 299")));
}

TEST(TokenFile, WriterMakesTheBytesOfTheFormat) {
  const Scratch scratch;
  write_corpus(scratch / "corpus", 300, {{7, 1, 2}, {299}});
  Layout layout;
  layout.lengths = {3, 1}, layout.offsets = {0, 6}, layout.documents = {0, 1, 2};
  EXPECT_EQ(read_text(scratch / "corpus.idx"), layout.bytes());
  EXPECT_EQ(read_text(scratch / "corpus.bin"), tokens_of({7, 1, 2, 299}, 2));
}

TEST(TokenFile, AnotherCorpusTakesThePlaceOfTheOld) {
  const Scratch scratch;
  write_corpus(scratch / "corpus", 300, {{7, 1, 2}, {8}});
  write_corpus(scratch / "corpus", 70000, {{69999, 4}});
  const TokenFile file(scratch / "corpus", 70000);
  EXPECT_THAT(all_tokens(file), ElementsAre(69999, 4));
  EXPECT_EQ(file.documents(), 1);
}

TEST(TokenFile, WithoutFinishThereIsNoCorpus) {
  const Scratch scratch;
  write_corpus(scratch / "corpus", 300, {{7, 1, 2}});
  {
    TokenFileWriter unfinished(scratch / "corpus", 300);
    unfinished.add_document(std::vector<std::int32_t>{1, 2, 3});
    EXPECT_THROW(unfinished.add_document({}), Error);
  }
  EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus"); }), HasSubstr("corpus.idx"));
}

TEST(TokenFile, WriterRefusesIdsOutsideTheVocabulary) {
  const Scratch scratch;
  for (const std::int64_t vocab : {300, 65536, 65537}) {
    TokenFileWriter writer(scratch / "corpus", vocab);
    writer.add_document(std::vector<std::int32_t>{0, static_cast<std::int32_t>(vocab - 1)});
    for (const std::int32_t id : {-1, static_cast<std::int32_t>(vocab), INT32_MAX, INT32_MIN})
      EXPECT_THAT(message_of<Error>([&] {
                    writer.add_document(std::vector<std::int32_t>{1, id});
                  }),
                  AllOf(HasSubstr("corpus"), HasSubstr("document 1"), HasSubstr(fmt::format("id {},", id))));
  }
}

TEST(TokenFile, AnIndexThatCannotBeRemovedKeepsItsTokens) {
  const Scratch scratch;
  put(scratch / "corpus.bin", "tokens");
  std::filesystem::create_directories(scratch / "corpus.idx/occupied");
  EXPECT_THAT(message_of<Error>([&] { TokenFileWriter(scratch / "corpus", 300); }), HasSubstr("corpus.idx"));
  EXPECT_EQ(read_text(scratch / "corpus.bin"), "tokens");
}

TEST(TokenFile, ReadsWhatMegatronWritesInEveryTokenType) {
  for (const auto& [code, width] : {std::pair{1, 1}, {4, 4}, {5, 8}, {8, 2}})
    for (const std::string& modes : {""s, "\0\1\0\1"s}) {
      const Scratch scratch;
      Layout layout;
      layout.code = code, layout.modes = modes;
      for (std::size_t i = 0; i < 4; ++i) layout.offsets[i] = layout.offsets[i] / 2 * width;
      put_corpus(scratch, layout.bytes(), tokens_of(ten, width));
      const TokenFile file(scratch / "corpus", 251);
      EXPECT_THAT(all_tokens(file), ElementsAreArray(ten)) << "code " << code;
      EXPECT_THAT(file.document_starts(), ElementsAre(0, 5, 9));  // sequences 0 and 1 are one document
    }
}

TEST(TokenFile, DocumentsWithoutTokensLeaveNoTrace) {
  const Scratch scratch;
  Layout layout;
  layout.lengths = {0, 4, 0, 6}, layout.offsets = {0, 0, 8, 8}, layout.documents = {0, 1, 2, 2, 3, 4};
  put_corpus(scratch, layout.bytes());
  EXPECT_THAT(TokenFile(scratch / "corpus").document_starts(), ElementsAre(0, 4));
}

TEST(TokenFile, ReadsAnyPieceAndNothingOutside) {
  const Scratch scratch;
  put_corpus(scratch, Layout().bytes());
  const TokenFile file(scratch / "corpus");
  for (std::int64_t begin = 0; begin <= 10; ++begin)
    for (std::int64_t end = begin; end <= 10; ++end) {
      std::vector<std::int64_t> piece(static_cast<std::size_t>(end - begin));
      file.read(begin, piece);
      EXPECT_TRUE(std::equal(piece.begin(), piece.end(), ten.begin() + begin));
    }
  std::vector<std::int64_t> two(2);
  for (const std::int64_t begin : {std::int64_t{-1}, std::int64_t{9}, std::int64_t{11}, INT64_MAX, INT64_MIN})
    EXPECT_THAT(message_of<Error>([&] { file.read(begin, two); }), HasSubstr("corpus.bin"));
}

TEST(TokenFile, EachWrongFieldIsNamedWithItsValue) {
  const Scratch scratch;
  const auto expect = [&](const auto& corrupt, const std::string& value) {
    Layout layout;
    corrupt(layout);
    EXPECT_THAT(refusal(scratch, layout.bytes()),
                AllOf(HasSubstr("corpus.idx"), HasSubstr(value), HasSubstr("wuneng tokenize")));
  };
  for (std::size_t i = 0; i < 9; ++i) expect([&](Layout& l) { l.magic[i] ^= 0x20; }, "MMIDIDX");
  for (const std::uint64_t version :
       {std::uint64_t{0}, std::uint64_t{2}, std::uint64_t{1} << 32 | 1, UINT64_MAX})
    expect([&](Layout& l) { l.version = version; }, fmt::format("version {}", version));
  for (const int code : {0, 2, 3, 6, 7, 9, 255})
    expect([&](Layout& l) { l.code = code; }, fmt::format("token type {}", code));
  expect([](Layout& l) { l.sequences = 3; }, "3 sequences");
  expect([](Layout& l) { l.sequences = 5; }, "5 sequences");
  expect([](Layout& l) { l.document_entries = 3; }, "3 document entries");
  expect([](Layout& l) { l.document_entries = 5; }, "5 document entries");
  expect([](Layout& l) { l.documents.clear(); }, "0 document entries");
  expect([](Layout& l) { l.lengths[2] = -4; }, "sequence 2 has length -4");
  expect([](Layout& l) { l.lengths[1] = 3; }, "sequence 2 begins at byte 10, expected 12");
  expect([](Layout& l) { l.lengths[3] = 2; }, "22 bytes");
  expect([](Layout& l) { l.offsets[0] = 2; }, "sequence 0 begins at byte 2");
  expect([](Layout& l) { l.offsets[3] = -18; }, "sequence 3 begins at byte -18");
  expect([](Layout& l) { l.documents = {1, 2, 3, 4}; }, "document 0 begins with sequence 1");
  expect([](Layout& l) { l.documents = {0, 3, 2, 4}; }, "document entry 2 is sequence 2, expected 3 .. 4");
  expect([](Layout& l) { l.documents = {0, 2, 5, 4}; }, "document entry 2 is sequence 5");
  expect([](Layout& l) { l.documents = {0, -1, 3, 4}; }, "document entry 1 is sequence -1");
  expect([](Layout& l) { l.documents = {0, 2, 3, 3}; }, "ends at sequence 3, expected 4");
  expect([](Layout& l) { l.documents = {0}; }, "ends at sequence 0, expected 4");
}

TEST(TokenFile, AnEmptyCorpusIsRefused) {
  const Scratch scratch;
  for (const std::vector<std::int64_t>& lengths : {std::vector<std::int64_t>{}, {0}}) {
    Layout layout;
    layout.lengths = lengths, layout.offsets = lengths, layout.documents.resize(lengths.size() + 1);
    std::iota(layout.documents.begin(), layout.documents.end(), 0);
    put_corpus(scratch, layout.bytes(), "");
    EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus"); }),
                AllOf(HasSubstr("corpus.idx"), HasSubstr("empty")));
  }
}

// 12 * 2^62 is 0 modulo 2^64: counts that are multiplied before they are compared would fit.
TEST(TokenFile, AbsurdCountsAreRefusedBeforeAnythingIsAllocated) {
  const Scratch scratch;
  Layout layout;
  layout.documents.insert(layout.documents.end(), 2, 4);  // 12*4 + 8*6 bytes: a multiple of 8
  const std::uint64_t huge = std::uint64_t{1} << 62;
  for (const std::uint64_t s : {std::uint64_t{4}, huge, huge + 4, UINT64_MAX / 12, UINT64_MAX})
    for (const std::uint64_t d : {std::uint64_t{6}, std::uint64_t{12}, huge, huge + 6, UINT64_MAX}) {
      if (s == 4 && d == 6) continue;
      layout.sequences = s, layout.document_entries = d;
      EXPECT_THAT(refusal(scratch, layout.bytes()),
                  AllOf(HasSubstr("corpus.idx"),
                        HasSubstr(fmt::format("{} sequences and {} document entries", s, d))));
    }
}

TEST(TokenFile, AnIndexOfAnyOtherLengthIsRefused) {
  const Scratch scratch;
  const std::string whole = Layout().bytes();
  for (std::size_t length = 0; length < whole.size(); ++length)
    EXPECT_THAT(refusal(scratch, whole.substr(0, length)),
                AllOf(HasSubstr("corpus.idx"), HasSubstr(fmt::format("{}", length))));
  for (const std::size_t more : {1, 3, 5, 8, 100})
    EXPECT_THAT(refusal(scratch, whole + std::string(more, '\0')), HasSubstr("corpus.idx"));
}

TEST(TokenFile, TokensOfAnyOtherLengthAreRefused) {
  const Scratch scratch;
  const std::string whole = tokens_of(ten, 2);
  for (std::size_t length = 0; length < whole.size() + 4; ++length) {
    if (length == whole.size()) continue;
    put_corpus(scratch, Layout().bytes(), (whole + "more").substr(0, length));
    EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus"); }),
                AllOf(HasSubstr("corpus"), HasSubstr(".bin"), HasSubstr("20 bytes"),
                      HasSubstr(fmt::format("has {}:", length))));
  }
}

TEST(TokenFile, AMissingFileIsNamed) {
  for (const std::string& name : {"corpus.bin"s, "corpus.idx"s}) {
    const Scratch scratch;
    put_corpus(scratch, Layout().bytes());
    std::filesystem::remove(scratch / name);
    EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus"); }),
                HasSubstr((scratch / name).string()));
  }
}

// Either a refusal, or a corpus whose parts agree with each other.
void expect_sound_or_refused(const Scratch& scratch, const std::string& index, int& refused) {
  put(scratch / "corpus.idx", index);
  try {
    const TokenFile file(scratch / "corpus");
    const auto starts = file.document_starts();
    ASSERT_THAT(file.tokens(), testing::AnyOf(10, 20));  // the .bin as u16 or u8
    ASSERT_EQ(all_tokens(file).size(), static_cast<std::size_t>(file.tokens()));
    ASSERT_EQ(starts.front(), 0);
    ASSERT_TRUE(std::adjacent_find(starts.begin(), starts.end(), std::greater_equal<>()) == starts.end());
    ASSERT_LT(starts.back(), file.tokens());
  } catch (const UsageError& error) {
    ++refused;
    ASSERT_THAT(error.what(), HasSubstr("corpus"));
  }
}

TEST(TokenFile, ADamagedIndexIsReadSoundlyOrRefused) {
  const Scratch scratch;
  Layout layout;
  layout.modes = std::string(4, '\0');
  const std::string whole = layout.bytes();
  put_corpus(scratch, whole);
  int refused = 0;
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (const int value : {0x00, 0x01, 0x02, 0x05, 0x7f, 0x80, 0xff}) {
      std::string index = whole;
      index[i] = static_cast<char>(value);
      ASSERT_NO_FATAL_FAILURE(expect_sound_or_refused(scratch, index, refused))
          << "byte " << i << " = " << value;
    }
  std::mt19937 random(1);
  for (int n = 0; n < 1000; ++n) {
    std::string index = whole;
    for (int changes = 0; changes < 4; ++changes)
      index[random() % index.size()] = static_cast<char>(random() % 4 ? random() % 8 : random());
    ASSERT_NO_FATAL_FAILURE(expect_sound_or_refused(scratch, index, refused)) << "round " << n;
  }
  EXPECT_GT(refused, 500);
}

TEST(TokenFile, AnIdOutsideTheVocabularyIsNamedWithItsPosition) {
  const Scratch scratch;
  put_corpus(scratch, Layout().bytes());
  EXPECT_NO_THROW(TokenFile(scratch / "corpus", 251));
  EXPECT_NO_THROW(TokenFile(scratch / "corpus"));
  EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus", 250); }),
              AllOf(HasSubstr("corpus.bin"), HasSubstr("token 7 has id 250"), HasSubstr("0 .. 249"),
                    HasSubstr("vocab_size")));
  std::vector<std::int32_t> many(150000, 3);
  many[140000] = 70000;
  write_corpus(scratch / "many", 100000, {many});
  EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "many", 70000); }),
              HasSubstr("token 140000 has id 70000"));
}

TEST(TokenFile, ANegativeIdIsNamedWithItsPosition) {
  for (const auto& [code, width] : {std::pair{4, 4}, {5, 8}}) {
    const Scratch scratch;
    Layout layout;
    layout.code = code, layout.lengths = {3}, layout.offsets = {0}, layout.documents = {0, 1};
    put_corpus(scratch, layout.bytes(), tokens_of({1, -5, 2}, width));
    EXPECT_THAT(message_of<UsageError>([&] { TokenFile(scratch / "corpus", 10); }),
                HasSubstr("token 1 has id -5"));
  }
}

TEST(TokenFile, TheHashIsThatOfEveryByte) {
  const Scratch scratch;
  Layout layout;
  layout.modes = std::string(4, '\0');
  const std::string tokens = tokens_of(ten, 2);
  const auto hash_of = [&](const std::string& index, const std::string& bin) {
    put_corpus(scratch, index, bin);
    return TokenFile(scratch / "corpus").hash();
  };
  std::set<std::uint64_t> seen{hash_of(layout.bytes(), tokens)};
  EXPECT_TRUE(seen.contains(hash_of(layout.bytes(), tokens)));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    std::string changed = tokens;
    changed[i] ^= 1;
    EXPECT_TRUE(seen.insert(hash_of(layout.bytes(), changed)).second) << "byte " << i << " of the tokens";
  }
  for (std::size_t i = 0; i < 4; ++i) {
    Layout changed = layout;
    changed.modes[i] ^= 1;
    EXPECT_TRUE(seen.insert(hash_of(changed.bytes(), tokens)).second) << "mode " << i;
  }
  layout.documents = {0, 1, 3, 4};
  EXPECT_TRUE(seen.insert(hash_of(layout.bytes(), tokens)).second) << "document table";
}

}  // namespace
}  // namespace wuneng::data
