#include "kernels/wkv7/sequences.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace wuneng::kernels {

bool operator==(const Wkv7Sequence& a, const Wkv7Sequence& b) {
  return a.begin == b.begin && a.length == b.length && a.initial == b.initial && a.final == b.final &&
         a.kept == b.kept;
}
void PrintTo(const Wkv7Sequence& s, std::ostream* out) {
  *out << "{" << s.begin << ", " << s.length << ", " << s.initial << ", " << s.final << ", " << s.kept << "}";
}

namespace tests {
namespace {

using Sequences = std::vector<Wkv7Sequence>;

TEST(Wkv7Sequences, WithoutDocumentsAreTheRows) {
  const Sequences expected{{0, 65, 0, 0, 0}, {65, 65, 1, 1, 1}};
  EXPECT_EQ(wkv7_sequences(2, 65, {}, false), expected);
  EXPECT_EQ(wkv7_sequences(2, 65, {}, true), expected);
}

TEST(Wkv7Sequences, DocumentsDropAndKeepTheStatesOfTheirRow) {
  // Row 0: a document from its first token on, another at 3; row 1 goes on, then a document of its last
  // token.
  const std::vector<std::int64_t> starts{0, 3, 19};
  const Sequences per_row{{0, 3, -1, -1, 0}, {3, 7, -1, 0, 0}, {10, 9, 1, -1, 0}, {19, 1, -1, 1, 0}};
  EXPECT_EQ(wkv7_sequences(2, 10, starts, false), per_row);
  const Sequences per_document{{0, 3, 0, 0, 0}, {3, 7, 1, 1, 0}, {10, 9, 2, 2, 0}, {19, 1, 3, 3, 0}};
  EXPECT_EQ(wkv7_sequences(2, 10, starts, true), per_document);
}

TEST(Wkv7Sequences, KeptStatesAreThoseInsideASequence) {
  EXPECT_EQ(wkv7_kept_states(1), 0);
  EXPECT_EQ(wkv7_kept_states(64), 0);
  EXPECT_EQ(wkv7_kept_states(65), 1);
  EXPECT_EQ(wkv7_kept_states(129), 2);
}

// Of any table: the sequences tile the batch in order, never cross a row, begin where told, and keep at most
// one state per 64 tokens.
TEST(Wkv7Sequences, TileTheBatchWhateverTheTable) {
  std::mt19937 random(7);
  for (int trial = 0; trial < 300; ++trial) {
    const std::int64_t B = 1 + random() % 4, T = 1 + random() % 200;
    std::set<std::int64_t> starts;
    for (std::int64_t i = random() % 12; i > 0; --i) starts.insert(random() % (B * T));
    const std::vector<std::int64_t> table(starts.begin(), starts.end());
    std::int64_t next = 0, kept = 0, finals = 0;
    for (const Wkv7Sequence& s : wkv7_sequences(B, T, table, false)) {
      ASSERT_EQ(s.begin, next);
      ASSERT_GE(s.length, 1);
      ASSERT_EQ(s.begin / T, (s.begin + s.length - 1) / T);
      ASSERT_TRUE(s.begin % T == 0 || starts.contains(s.begin));
      ASSERT_EQ(s.initial, s.begin % T == 0 && !starts.contains(s.begin) ? s.begin / T : -1);
      ASSERT_EQ(s.final, (s.begin + s.length) % T == 0 ? s.begin / T : -1);
      ASSERT_EQ(s.kept, kept);
      for (std::int64_t t = s.begin + 1; t < s.begin + s.length; ++t) ASSERT_FALSE(starts.contains(t));
      kept += wkv7_kept_states(s.length);
      finals += s.final >= 0;
      next += s.length;
    }
    EXPECT_EQ(next, B * T);
    EXPECT_EQ(finals, B);
    EXPECT_LE(kept * wkv7_kept_tokens, B * T);
  }
}

}  // namespace
}  // namespace tests
}  // namespace wuneng::kernels
