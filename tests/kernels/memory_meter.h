#pragma once

#include <c10/core/Allocator.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace wuneng::kernels::tests {

// Bytes of tensors, as LibTorch's allocator reports them of one thread, beyond those at the start.
struct MemoryMeter : c10::MemoryReportingInfoBase {
  std::int64_t alive = 0, peak = 0;

  void reportMemoryUsage(void*, std::int64_t bytes, std::size_t, std::size_t, c10::Device) override {
    alive += bytes;
    peak = std::max(peak, alive);
  }
  bool memoryProfilingEnabled() const override { return true; }
};

// What `work` takes.
template <class Work>
MemoryMeter metered(const Work& work) {
  const auto meter = std::make_shared<MemoryMeter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  work();
  return *meter;
}

}  // namespace wuneng::kernels::tests
