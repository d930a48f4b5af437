#include "trainer/tensorboard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <map>
#include <string_view>
#include <vector>

#include "tests/support/scratch.h"

namespace wuneng::trainer {
namespace {

using tests::Scratch;

// CRC-32C as polynomial division, a bit at a time.
std::uint32_t crc32c(std::string_view data) {
  std::uint32_t crc = 0xffffffff;
  for (const char c : data)
    for (int bit = 0; bit < 8; ++bit) {
      const std::uint32_t top = (crc ^ static_cast<std::uint32_t>(static_cast<unsigned char>(c) >> bit)) & 1;
      crc >>= 1;
      if (top) crc ^= 0x82f63b78;
    }
  return ~crc;
}

std::uint32_t masked(std::uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8; }

template <class T>
T take(std::string_view& bytes) {
  T value{};
  EXPECT_GE(bytes.size(), sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

// The payloads of a record file; every checksum is checked.
std::vector<std::string> records(std::string_view bytes) {
  std::vector<std::string> all;
  while (!bytes.empty() && !testing::Test::HasFailure()) {
    const std::string_view framed = bytes;
    const auto length = take<std::uint64_t>(bytes);
    EXPECT_EQ(take<std::uint32_t>(bytes), masked(crc32c(framed.substr(0, 8))));
    all.emplace_back(bytes.substr(0, length));
    bytes.remove_prefix(length);
    EXPECT_EQ(take<std::uint32_t>(bytes), masked(crc32c(all.back())));
  }
  return all;
}

// The fields of a protocol buffer message by number: varints and fixed-size values as bits, the rest as
// bytes.
struct Message {
  std::map<int, std::uint64_t> bits;
  std::map<int, std::string> bytes;
};

std::uint64_t take_varint(std::string_view& bytes) {
  std::uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const auto byte = take<std::uint8_t>(bytes);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
}

Message parse(std::string_view bytes) {
  Message message;
  while (!bytes.empty() && !testing::Test::HasFailure()) {
    const std::uint64_t key = take_varint(bytes);
    const int field = static_cast<int>(key >> 3);
    switch (key & 7) {
      case 0:
        message.bits[field] = take_varint(bytes);
        break;
      case 1:
        message.bits[field] = take<std::uint64_t>(bytes);
        break;
      case 5:
        message.bits[field] = take<std::uint32_t>(bytes);
        break;
      case 2: {
        const std::uint64_t length = take_varint(bytes);
        EXPECT_LE(length, bytes.size());
        message.bytes[field] = bytes.substr(0, length);
        bytes.remove_prefix(length);
        break;
      }
      default:
        ADD_FAILURE() << "wire type " << (key & 7);
    }
  }
  return message;
}

template <class To, class From>
To bits_as(From from) {
  To to;
  static_assert(sizeof to <= sizeof from);
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// The one file of a folder that a reader of event files would open.
std::vector<Message> events(const Scratch& folder) {
  std::vector<Message> all;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    EXPECT_THAT(entry.path().filename().string(), testing::StartsWith("events.out.tfevents."));
    EXPECT_TRUE(all.empty()) << "one file";
    for (const std::string& payload : records(read_text(entry.path()))) all.push_back(parse(payload));
  }
  return all;
}

TEST(TensorBoard, ChecksumIsCastagnolis) {
  EXPECT_EQ(crc32c("123456789"), 0xe3069283);            // the catalogue's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aa);  // RFC 3720, B.4
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43);
}

TEST(TensorBoard, AFileOpensWithItsVersionAndWithdrawsLaterSteps) {
  const Scratch scratch;
  const double before =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  { const TensorBoard board(scratch.path(), 300); }
  const std::vector<Message> all = events(scratch);
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].bytes.at(3), "brain.Event:2");
  const auto time = bits_as<double>(all[0].bits.at(1));
  EXPECT_GE(time, before - 1.0);
  EXPECT_LE(time, before + 600.0);
  EXPECT_EQ(all[1].bits.at(2), 301U);
  EXPECT_EQ(parse(all[1].bytes.at(7)).bits.at(1), 1U);  // SessionLog.START
}

TEST(TensorBoard, ScalarsKeepTagValueAndStep) {
  const Scratch scratch;
  struct Point {
    std::string tag;
    double value;
    std::int64_t step;
  };
  const std::vector<Point> points{{"train/loss", 3.25, 1},
                                  {"a", -1e-30, 127},
                                  {"b", 0.1, 128},
                                  {"speed/tokens", 1e9, 300000},
                                  {"", 0.0, std::int64_t{1} << 40},
                                  {std::string(300, 'x'), 7.0, 2}};
  TensorBoard board(scratch.path(), 0);
  for (const Point& point : points) board.scalar(point.tag, point.value, point.step);
  board.scalar("nan", std::nan(""), 5);
  const std::vector<Message> all = events(scratch);  // while the file is open: nothing waits in a buffer
  ASSERT_EQ(all.size(), points.size() + 3);
  for (std::size_t i = 0; i < points.size(); ++i) {
    const Message& event = all[i + 2];
    EXPECT_EQ(event.bits.at(2), static_cast<std::uint64_t>(points[i].step));
    const Message value = parse(parse(event.bytes.at(5)).bytes.at(1));
    EXPECT_EQ(value.bytes.at(1), points[i].tag);
    EXPECT_EQ(bits_as<float>(value.bits.at(2)), static_cast<float>(points[i].value));
  }
  EXPECT_TRUE(std::isnan(bits_as<float>(parse(parse(all.back().bytes.at(5)).bytes.at(1)).bits.at(2))));
}

TEST(TensorBoard, EveryRunHasAFileThatSortsAfterTheOnesBefore) {
  const Scratch scratch;
  std::vector<std::string> names;
  std::vector<std::unique_ptr<TensorBoard>> boards;
  for (int run = 0; run < 3; ++run) {
    boards.push_back(std::make_unique<TensorBoard>(scratch.path(), run));
    for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
      const std::string name = entry.path().filename().string();
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
  }
  EXPECT_EQ(names.size(), 3U);
  EXPECT_TRUE(std::ranges::is_sorted(names));
}

}  // namespace
}  // namespace wuneng::trainer
