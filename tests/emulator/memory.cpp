#include "tests/emulator/memory.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "tests/emulator/checker.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/sanitizer.h"

namespace wuneng::emulator {
namespace {

constexpr std::size_t guard_bytes = 4096;  // more than a row of the test tensors
constexpr std::size_t offset_bytes = 16;   // the data is 16-byte aligned and no more

constexpr std::byte band[2] = {std::byte{0xa5}, std::byte{0x7f}};

// The memory of a buffer: offset, guard, data, guard.
struct Buffer {
  std::byte* data;
  std::size_t bytes;
};

std::vector<Buffer>& buffers() {
  static std::vector<Buffer> all;
  return all;
}

std::byte* allocation(std::byte* data) { return data - guard_bytes - offset_bytes; }

void set_guards(const Buffer& b) {
  fill_band(b.data - guard_bytes, guard_bytes);
  fill_band(b.data + b.bytes, guard_bytes);
  asan_poison(b.data - guard_bytes, guard_bytes);
  asan_poison(b.data + b.bytes, guard_bytes);
}

void open_guards(const Buffer& b) { asan_unpoison(b.data - guard_bytes, b.bytes + 2 * guard_bytes); }

// Empty when the guards are intact.
std::string changed(const Buffer& b) {
  const std::byte *start = b.data, *end = b.data + b.bytes;
  const std::string tensor = " of a tensor of " + std::to_string(b.bytes) + " bytes";
  if (const auto* past = changed_band(end, guard_bytes))
    return "written " + std::to_string(past - end) + " bytes past the end" + tensor;
  if (const auto* before = changed_band(start - guard_bytes, guard_bytes))
    return "written " + std::to_string(start - before) + " bytes before the start" + tensor;
  return "";
}

}  // namespace

void fill_band(std::byte* start, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i) start[i] = band[i % 2];
}

const std::byte* changed_band(const std::byte* start, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; ++i)
    if (start[i] != band[i % 2]) return start + i;
  return nullptr;
}

GuardedBytes::GuardedBytes(std::size_t bytes) : bytes_(bytes) {
  const std::size_t total = offset_bytes + bytes + 2 * guard_bytes;
  void* memory = std::aligned_alloc(128, (total + 127) / 128 * 128);
  if (memory == nullptr) throw std::bad_alloc();
  data_ = static_cast<std::byte*>(memory) + offset_bytes + guard_bytes;
  buffers().push_back({data_, bytes_});
  set_guards(buffers().back());
  if (checker()) checker()->add_memory(data_, bytes_, guard_bytes);
  poison();
}

GuardedBytes::~GuardedBytes() {
  auto& all = buffers();
  const auto mine = std::find_if(all.begin(), all.end(), [&](const Buffer& b) { return b.data == data_; });
  open_guards(*mine);
  all.erase(mine);
  if (checker()) checker()->remove_memory(data_);
  std::free(allocation(data_));
}

void GuardedBytes::poison() {
  std::memset(data_, 0xff, bytes_);
  if (checker()) checker()->set_memory(data_, true);
}

void GuardedBytes::fill(const void* values) {
  if (bytes_ != 0) std::memcpy(data_, values, bytes_);
  if (checker()) checker()->set_memory(data_, false);
}

std::string changed_guard() {
  std::string all;
  for (const Buffer& b : buffers()) {
    open_guards(b);
    const std::string what = changed(b);
    if (!what.empty()) all += (all.empty() ? "" : "; ") + what;
    set_guards(b);
  }
  return all;
}

bool touches_guard(const void* address, std::size_t bytes) {
  const auto* p = static_cast<const std::byte*>(address);
  if (has_asan() && __asan_region_is_poisoned(const_cast<void*>(address), bytes) != nullptr) return true;
  return std::any_of(buffers().begin(), buffers().end(), [&](const Buffer& b) {
    const bool near = p + bytes > b.data - guard_bytes && p < b.data + b.bytes + guard_bytes;
    return near && (p < b.data || p + bytes > b.data + b.bytes);
  });
}

Build build() {
  if (has_asan()) return Build::asan;
  return checker() ? Build::shadow : Build::order;
}

int seeds() {
  if (const char* text = std::getenv("WUNENG_EMULATOR_SEEDS")) return std::max(1, std::atoi(text));
  return build() == Build::order ? 4 : 1;
}

Checker*& checker() {
  static Checker* registered = nullptr;
  return registered;
}

}  // namespace wuneng::emulator
