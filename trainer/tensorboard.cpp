#include "trainer/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <chrono>
#include <string_view>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), a byte at a time.
constexpr std::array<std::uint32_t, 256> crc_table = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78U : 0U);
    table[byte] = crc;
  }
  return table;
}();

// Masked as record files want it, so that a CRC of data that holds CRCs stays useful.
std::uint32_t masked_crc(std::string_view data) {
  std::uint32_t crc = ~0U;
  for (const char c : data) crc = (crc >> 8) ^ crc_table[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return std::rotr(~crc, 15) + 0xa282ead8U;
}

template <class T>
std::string little_endian(T value) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

// Fields of a protocol buffer message: the key holds the field's number and how its value is encoded.
enum class Wire : std::uint64_t { varint = 0, fixed64 = 1, text = 2, fixed32 = 5 };

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string key(std::uint64_t field, Wire wire) {
  return varint(field << 3 | static_cast<std::uint64_t>(wire));
}
std::string number(std::uint64_t field, std::int64_t value) {
  return key(field, Wire::varint) + varint(static_cast<std::uint64_t>(value));
}
std::string real(std::uint64_t field, double value) {
  return key(field, Wire::fixed64) + little_endian(value);
}
std::string real32(std::uint64_t field, float value) {
  return key(field, Wire::fixed32) + little_endian(value);
}
std::string text(std::uint64_t field, std::string_view value) {
  return key(field, Wire::text) + varint(value.size()).append(value);
}

// The field numbers of the messages.
namespace event {
constexpr int wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7;
}
namespace summary {
constexpr int value = 1;
}
namespace value {
constexpr int tag = 1, simple_value = 2;
}
namespace session_log {
constexpr int status = 1, start = 1;
}

std::chrono::microseconds now() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
      std::chrono::system_clock::now().time_since_epoch());
}

// Readers take the files of a folder in the order of their names, so the time comes first.
std::filesystem::path new_file(const std::filesystem::path& folder) {
  std::array<char, 256> host{};
  WN_CHECK(::gethostname(host.data(), host.size() - 1) == 0, "{}: the host has no name", folder.string());
  const auto time = now().count();
  return folder / fmt::format("events.out.tfevents.{:010}.{:06}.{}.{}", time / 1'000'000, time % 1'000'000,
                              host.data(), ::getpid());
}

}  // namespace

TensorBoard::TensorBoard(const std::filesystem::path& folder, std::int64_t last_step)
    : file_(new_file(folder)) {
  write_event(text(event::file_version, "brain.Event:2"));
  write_event(number(event::step, last_step + 1) +
              text(event::session_log, number(session_log::status, session_log::start)));
}

void TensorBoard::scalar(const std::string& tag, double value, std::int64_t step) {
  const std::string point = text(value::tag, tag) + real32(value::simple_value, static_cast<float>(value));
  write_event(number(event::step, step) + text(event::summary, text(summary::value, point)));
}

void TensorBoard::write_event(const std::string& event) {
  const std::string payload = real(event::wall_time, std::chrono::duration<double>(now()).count()) + event;
  const std::string length = little_endian<std::uint64_t>(payload.size());
  file_.write(length + little_endian(masked_crc(length)) + payload + little_endian(masked_crc(payload)));
}

}  // namespace wuneng::trainer
