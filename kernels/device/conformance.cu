// Launcher of the conformance kernel, for scripts/gpu_check.sh.
#include <cuda_runtime.h>

#include "kernels/device/conformance.cuh"

// How many words wuneng_conformance writes.
extern "C" int wuneng_conformance_words() { return wuneng::device::conformance_words; }

// out: wuneng_conformance_words() words on the device. Returns 0 or the cudaError_t of the launch.
extern "C" int wuneng_conformance(std::uint32_t* out, void* stream) {
  namespace device = wuneng::device;
  device::conformance<<<1, device::conformance_threads, sizeof(device::ConformanceShared),
                        static_cast<cudaStream_t>(stream)>>>(out);
  return static_cast<int>(cudaGetLastError());
}
