#include "common/hash.h"

#include <gtest/gtest.h>

#include <set>

namespace wuneng {
namespace {

TEST(Hash, IsXxh3) {  // values of the published algorithm
  EXPECT_EQ(hex(hash_text("")), "2d06800538d394c2");
  EXPECT_NE(hash_text("a"), hash_text("b"));
  EXPECT_NE(hash_text("a", 1), hash_text("a", 2));
}

TEST(Hash, MixBitsIsABijectionOnASample) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 100000; ++i) seen.insert(mix_bits(i));
  EXPECT_EQ(seen.size(), 100000u);
}

}  // namespace
}  // namespace wuneng
