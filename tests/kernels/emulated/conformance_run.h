// The conformance kernel on the emulator.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device/conformance.cuh"
#include "tests/emulator/emulator.h"

namespace wuneng {

// [conformance_rows][conformance_threads]
inline std::vector<std::uint32_t> emulated_conformance(std::uint64_t seed) {
  emulator::GuardedBuffer<std::uint32_t> words(device::conformance_words);
  emulator::launch(device::conformance, {1}, device::conformance_threads, sizeof(device::ConformanceShared),
                   {.seed = seed}, words.data());
  return words.values();
}

}  // namespace wuneng
