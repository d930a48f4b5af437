#include "trainer/streamed_text.h"

#include <gtest/gtest.h>

namespace wuneng::trainer {
namespace {

struct Result {
  std::string text;
  bool stopped = false;
};

// The text in pieces of `size` bytes.
Result stream(const std::string& text, std::size_t size, const std::vector<std::string>& stops) {
  Result result;
  StreamedText streamed(stops, [&](std::string_view bytes) { result.text += bytes; });
  for (std::size_t at = 0; at < text.size() && !result.stopped; at += size)
    result.stopped = streamed.add(text.substr(at, size));
  streamed.finish();
  return result;
}

TEST(StreamedText, EndsBeforeTheFirstStopStringHoweverItArrives) {
  for (std::size_t size = 1; size < 12; ++size) {
    EXPECT_EQ(stream("one\n\ntwo", size, {"\n\n"}).text, "one");
    EXPECT_TRUE(stream("one\n\ntwo", size, {"\n\n"}).stopped);
    EXPECT_EQ(stream("aababac", size, {"abac", "zzz"}).text, "aab");
    EXPECT_EQ(stream("say END now", size, {"now", "END"}).text, "say ");
    EXPECT_EQ(stream("one\ntwo\n", size, {"\n\n"}).text, "one\ntwo\n");
    EXPECT_FALSE(stream("one\ntwo\n", size, {"\n\n"}).stopped);
  }
}

TEST(StreamedText, HoldsBackOnlyWhatMayBecomeAStopString) {
  std::string seen;
  StreamedText streamed({"abc"}, [&](std::string_view bytes) { seen += bytes; });
  streamed.add("xyab");
  EXPECT_EQ(seen, "xy");
  streamed.add("d");
  EXPECT_EQ(seen, "xyabd");
}

}  // namespace
}  // namespace wuneng::trainer
