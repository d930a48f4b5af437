#include "common/hash.h"

#include <fmt/format.h>

#define XXH_STATIC_LINKING_ONLY  // the size of its state
#include <xxhash.h>
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>  // the calls below go to the best that the processor has: four times as fast
#endif

namespace wuneng {

std::uint64_t hash_bytes(const void* data, std::size_t bytes, std::uint64_t seed) {
  return XXH3_64bits_withSeed(data, bytes, seed);
}

struct RunningHash::State {
  XXH3_state_t xxh3;
};

RunningHash::RunningHash() : state_(std::make_unique<State>()) { XXH3_64bits_reset(&state_->xxh3); }

RunningHash::~RunningHash() = default;

void RunningHash::add(const void* data, std::size_t bytes) { XXH3_64bits_update(&state_->xxh3, data, bytes); }

std::uint64_t RunningHash::value() const { return XXH3_64bits_digest(&state_->xxh3); }

std::string hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

}  // namespace wuneng
