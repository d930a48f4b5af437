#include "data/token_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>

#include "common/check.h"
#include "common/hash.h"

namespace wuneng::data {
namespace {

constexpr std::array<char, 9> magic{'M', 'M', 'I', 'D', 'I', 'D', 'X', '\0', '\0'};
constexpr std::uint64_t format_version = 1;
constexpr std::size_t header_bytes = 34;

// The format's codes of token types.
enum TypeCode : std::uint8_t { u8 = 1, i32 = 4, i64 = 5, u16 = 8 };

int bytes_of_code(std::uint8_t code) {
  switch (code) {
    case u8:
      return 1;
    case u16:
      return 2;
    case i32:
      return 4;
    case i64:
      return 8;
    default:
      return 0;
  }
}

std::filesystem::path with_suffix(const std::filesystem::path& prefix, const char* suffix) {
  return prefix.string() + suffix;
}

constexpr const char* remedy = "; make the corpus again with wuneng tokenize";

template <class T>
T read_at(std::span<const std::byte> bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

// The tables of an index, checked against its length.
struct Index {
  explicit Index(const MappedFile& file) : name(file.path().string()), bytes(file.bytes()) {
    WN_REQUIRE(bytes.size() >= header_bytes, "{}: {} bytes are too few for the header of {}{}", name,
               bytes.size(), header_bytes, remedy);
    WN_REQUIRE(std::memcmp(bytes.data(), magic.data(), magic.size()) == 0,
               "{}: does not begin with MMIDIDX: it is not a Megatron index{}", name, remedy);
    const auto version = read_at<std::uint64_t>(bytes, 9);
    WN_REQUIRE(version == format_version, "{}: version {} is not known, only {}{}", name, version,
               format_version, remedy);
    code = read_at<std::uint8_t>(bytes, 17);
    WN_REQUIRE(bytes_of_code(code) > 0, "{}: token type {} is none of 1 (u8), 4 (i32), 5 (i64), 8 (u16){}",
               name, code, remedy);
    const auto s = read_at<std::uint64_t>(bytes, 18), d = read_at<std::uint64_t>(bytes, 26);
    // Compared without multiplying first, so that absurd counts cannot overflow. An optional byte per
    // sequence may follow.
    const std::size_t rest = bytes.size() - header_bytes;
    const bool fits =
        s <= rest / 12 && d <= rest / 8 && d >= 1 && (rest == 12 * s + 8 * d || rest == 13 * s + 8 * d);
    WN_REQUIRE(fits, "{}: {} sequences and {} document entries do not fit its {} bytes{}", name, s, d,
               bytes.size(), remedy);
    sequences = static_cast<std::int64_t>(s);
    document_entries = static_cast<std::int64_t>(d);
  }

  std::int64_t length(std::int64_t i) const { return read_at<std::int32_t>(bytes, header_bytes + 4 * i); }
  std::int64_t offset(std::int64_t i) const {
    return read_at<std::int64_t>(bytes, header_bytes + 4 * sequences + 8 * i);
  }
  std::int64_t document(std::int64_t i) const {
    return read_at<std::int64_t>(bytes, header_bytes + 12 * sequences + 8 * i);
  }

  std::string name;
  std::span<const std::byte> bytes;
  std::uint8_t code = 0;
  std::int64_t sequences = 0, document_entries = 0;
};

// Lengths and offsets must describe the .bin from its first byte to its last, without gaps. Returns each
// sequence's first token, and the end.
std::vector<std::int64_t> sequence_starts(const Index& index, std::size_t bin_bytes) {
  const std::int64_t width = bytes_of_code(index.code);
  std::vector<std::int64_t> starts{0};
  for (std::int64_t i = 0; i < index.sequences; ++i) {
    WN_REQUIRE(index.length(i) >= 0, "{}: sequence {} has length {}{}", index.name, i, index.length(i),
               remedy);
    WN_REQUIRE(index.offset(i) == starts.back() * width, "{}: sequence {} begins at byte {}, expected {}{}",
               index.name, i, index.offset(i), starts.back() * width, remedy);
    starts.push_back(starts.back() + index.length(i));
  }
  const auto expected = static_cast<std::uint64_t>(starts.back()) * static_cast<std::uint64_t>(width);
  WN_REQUIRE(expected == bin_bytes,
             "{}: describes {} bytes of tokens, but the .bin beside it has {}: one of them is cut or of "
             "another corpus{}",
             index.name, expected, bin_bytes, remedy);
  return starts;
}

std::vector<std::int64_t> document_starts_of(const Index& index, const std::vector<std::int64_t>& sequences) {
  std::vector<std::int64_t> starts;
  WN_REQUIRE(index.document(0) == 0, "{}: document 0 begins with sequence {}, expected 0{}", index.name,
             index.document(0), remedy);
  for (std::int64_t d = 1; d < index.document_entries; ++d) {
    const std::int64_t first = index.document(d - 1), last = index.document(d);
    WN_REQUIRE(last >= first && last <= index.sequences,
               "{}: document entry {} is sequence {}, expected {} .. {}{}", index.name, d, last, first,
               index.sequences, remedy);
    if (sequences[last] > sequences[first])
      starts.push_back(sequences[first]);  // documents without tokens leave no trace
  }
  WN_REQUIRE(index.document(index.document_entries - 1) == index.sequences,
             "{}: the last document ends at sequence {}, expected {}{}", index.name,
             index.document(index.document_entries - 1), index.sequences, remedy);
  WN_REQUIRE(!starts.empty(), "{}: the corpus is empty{}", index.name, remedy);
  return starts;
}

template <class T>
void widen(const std::byte* from, std::span<std::int64_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    T token;
    std::memcpy(&token, from + i * sizeof(T), sizeof(T));
    out[i] = static_cast<std::int64_t>(token);
  }
}

void widen_tokens(const std::byte* from, int bytes_per_token, std::span<std::int64_t> out) {
  switch (bytes_per_token) {
    case 1:
      return widen<std::uint8_t>(from, out);
    case 2:
      return widen<std::uint16_t>(from, out);
    case 4:
      return widen<std::int32_t>(from, out);
    default:
      return widen<std::int64_t>(from, out);
  }
}

// An empty .bin, after the index beside it is gone for good: an index must never describe another corpus'
// tokens.
OutputFile open_bin(const std::filesystem::path& prefix) {
  const std::filesystem::path folder = prefix.has_parent_path() ? prefix.parent_path() : ".";
  make_folder(folder);
  const std::filesystem::path index = with_suffix(prefix, ".idx");
  std::error_code error;
  const bool removed = std::filesystem::remove(index, error);
  WN_CHECK(!error, "{}: cannot be removed: {}; choose another output", index.string(), error.message());
  if (removed) sync_folder(folder);
  return OutputFile(with_suffix(prefix, ".bin"));
}

}  // namespace

TokenFile::TokenFile(const std::filesystem::path& prefix, std::int64_t vocab_size)
    : prefix_(prefix), bin_(with_suffix(prefix, ".bin")) {
  const MappedFile idx(with_suffix(prefix, ".idx"));
  const Index index(idx);
  bytes_per_token_ = bytes_of_code(index.code);
  const std::vector<std::int64_t> sequences = sequence_starts(index, bin_.bytes().size());
  tokens_ = sequences.back();
  document_starts_ = document_starts_of(index, sequences);
  hash_ = hash_bytes(bin_.bytes().data(), bin_.bytes().size(),
                     hash_bytes(idx.bytes().data(), idx.bytes().size()));
  if (vocab_size <= 0) return;
  std::vector<std::int64_t> piece(1 << 16);
  for (std::int64_t begin = 0; begin < tokens_; begin += static_cast<std::int64_t>(piece.size())) {
    const std::span<std::int64_t> part(
        piece.data(), static_cast<std::size_t>(std::min<std::int64_t>(piece.size(), tokens_ - begin)));
    read(begin, part);
    for (std::size_t i = 0; i < part.size(); ++i)
      WN_REQUIRE(part[i] >= 0 && part[i] < vocab_size,
                 "{}: token {} has id {}, outside the vocabulary 0 .. {}; set model.vocab_size to the "
                 "tokenizer's size",
                 bin_.path().string(), begin + static_cast<std::int64_t>(i), part[i], vocab_size - 1);
  }
  vocab_size_ = vocab_size;
}

void TokenFile::read(std::int64_t begin, std::span<std::int64_t> out) const {
  const auto count = static_cast<std::int64_t>(out.size());
  WN_CHECK(begin >= 0 && count <= tokens_ - begin,
           "{}: {} tokens from token {} on are asked for, but there are {}", bin_.path().string(), count,
           begin, tokens_);
  widen_tokens(bin_.bytes().data() + begin * bytes_per_token_, bytes_per_token_, out);
  if (vocab_size_ == 0) return;
  const auto bad = std::ranges::find_if(out, [&](std::int64_t id) { return id < 0 || id >= vocab_size_; });
  WN_CHECK(bad == out.end(),
           "{}: token {} now has id {}, outside the vocabulary 0 .. {}: the file was changed, or its disk is "
           "damaged, after the start; put it back and run the same command again",
           bin_.path().string(), begin + (bad - out.begin()), *bad, vocab_size_ - 1);
}

TokenFileWriter::TokenFileWriter(const std::filesystem::path& prefix, std::int64_t vocab_size)
    : prefix_(prefix),
      vocab_size_(vocab_size),
      bytes_per_token_(vocab_size <= 65536 ? 2 : 4),
      bin_(open_bin(prefix)) {}

void TokenFileWriter::add_document(std::span<const std::int32_t> tokens) {
  WN_CHECK(
      !tokens.empty() && tokens.size() <= static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max()),
      "{}: document {} has {} tokens, expected 1 .. 2^31 - 1", prefix_.string(), lengths_.size(),
      tokens.size());
  for (const std::int32_t token : tokens)
    WN_CHECK(token >= 0 && token < vocab_size_,
             "{}: document {} has a token of id {}, outside the vocabulary 0 .. {}", prefix_.string(),
             lengths_.size(), token, vocab_size_ - 1);
  lengths_.push_back(static_cast<std::int32_t>(tokens.size()));
  if (bytes_per_token_ == 4) return bin_.write(tokens.data(), tokens.size_bytes());
  const std::vector<std::uint16_t> narrow(tokens.begin(), tokens.end());
  bin_.write(narrow.data(), narrow.size() * sizeof(std::uint16_t));
}

void TokenFileWriter::finish() {
  bin_.sync_and_close();
  std::string index(magic.begin(), magic.end());
  const auto append = [&](const auto& value) {
    index.append(reinterpret_cast<const char*>(&value), sizeof value);
  };
  append(format_version);
  append(static_cast<std::uint8_t>(bytes_per_token_ == 2 ? u16 : i32));
  append(static_cast<std::uint64_t>(lengths_.size()));
  append(static_cast<std::uint64_t>(lengths_.size() + 1));
  for (const std::int32_t length : lengths_) append(length);
  std::int64_t offset = 0;
  for (const std::int32_t length : lengths_) {
    append(offset);
    offset += static_cast<std::int64_t>(length) * bytes_per_token_;
  }
  for (std::int64_t d = 0; d <= static_cast<std::int64_t>(lengths_.size()); ++d) append(d);
  write_file_atomically(with_suffix(prefix_, ".idx"), index);
}

}  // namespace wuneng::data
