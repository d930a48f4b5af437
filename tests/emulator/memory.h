// Guard bands of all GuardedBytes. Internal to the emulator.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace wuneng::emulator {

// What lies around tensors and shared memory: NaN as bf16 and as fp32, so that reading it shows, and unlike
// the 0xff of memory that was never written, so that copying that into it shows too.
void fill_band(std::byte* start, std::size_t bytes);
// The first byte that is not as fill_band left it, or null.
const std::byte* changed_band(const std::byte* start, std::size_t bytes);

// Empty, or what was written outside of which tensor; the bands are then restored.
std::string changed_guard();
// Whether the bytes touch a guard band (or, with AddressSanitizer, any memory that is not to be touched).
bool touches_guard(const void* address, std::size_t bytes);

}  // namespace wuneng::emulator
