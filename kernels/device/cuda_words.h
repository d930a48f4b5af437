// The words of CUDA C++ that kernels use, for a host compiler. Deliberately without __shared__, __constant__,
// atomics and intrinsics: a kernel that uses them does not compile here, and so cannot go untested.
#pragma once

#include <cstddef>
#include <cstdint>

#define __global__
#define __device__
#define __launch_bounds__(...)

namespace wuneng::emulator {
struct Index {
  unsigned x, y, z;
};
}  // namespace wuneng::emulator

// Those of the lane that runs; the emulator sets them at every switch. Plain globals: every primitive is an
// opaque call, so that the compiler reads them again after it.
extern wuneng::emulator::Index threadIdx, blockIdx, blockDim, gridDim;
