// Counters of the benchmarks: rates, and what share of the machine's own ceilings they are. The ceilings are
// measured in the same run.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>

namespace wuneng::bench {

// Seconds of the fastest of some calls.
inline double fastest(int calls, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < calls; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// FLOP/s of large float32 products on the CPU.
inline double sgemm_peak() {
  static const double peak = [] {
    const at::Tensor a = at::randn({1536, 1536}), b = at::randn({1536, 1536});
    return 2.0 * 1536 * 1536 * 1536 / fastest(10, [&] { benchmark::DoNotOptimize(at::mm(a, b)); });
  }();
  return peak;
}

inline void report_flops(benchmark::State& state, double flops) {
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = benchmark::Counter(flops / 1e9, rate);
  state.counters["of_sgemm_peak"] = benchmark::Counter(flops / sgemm_peak(), rate);
}

}  // namespace wuneng::bench
