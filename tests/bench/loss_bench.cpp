// The output head with its loss, forward and backward, against LibTorch's two operators (linear, cross
// entropy) with autograd in the same run, at V = 65536: build/wuneng_bench --benchmark_filter=Loss. CPU,
// float32.
//
// Time: ours and theirs in turns, the fastest of each. Memory: the most bytes of tensors that are alive at
// once, as LibTorch's allocator reports them, beyond those before the pass. Two figures: with the two
// gradients that every implementation leaves behind, and without. (A product's own scratch is not LibTorch's
// and not counted: a few MB, the same for both.)
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include "kernels/linear_cross_entropy.h"
#include "tests/bench/report.h"
#include "tests/kernels/memory_meter.h"

namespace wuneng::bench {
namespace {

struct Problem {
  at::Tensor hidden, weight, targets;
};
using Loss = at::Tensor (*)(const Problem&);

Problem problem(std::int64_t n, std::int64_t V, std::int64_t C) {
  return {at::randn({n, C}).requires_grad_(), at::randn({V, C}).mul_(0.02).requires_grad_(),
          at::randint(0, V, {n}, at::kLong)};
}

at::Tensor ours(const Problem& p) {
  return kernels::linear_cross_entropy(p.hidden, p.weight, p.targets, p.weight.size(0)).objective;
}

at::Tensor theirs(const Problem& p) {
  return at::cross_entropy_loss(at::linear(p.hidden, p.weight), p.targets, {}, at::Reduction::Sum);
}

// Forward and backward; the gradients are let go before, else they are added up.
void step(Loss loss, const Problem& p) {
  p.hidden.mutable_grad().reset();
  p.weight.mutable_grad().reset();
  loss(p).backward();
}

std::int64_t peak_bytes(Loss loss, const Problem& p) {
  step(loss, p);  // what is allocated once and kept
  p.hidden.mutable_grad().reset();
  p.weight.mutable_grad().reset();
  return kernels::tests::metered([&] { step(loss, p); }).peak;
}

// Bars: a fifth of the memory at most, and no slower.
void against_libtorch(benchmark::State& state, std::int64_t n, std::int64_t V, std::int64_t C) {
  const Problem p = problem(n, V, C);
  const double own = static_cast<double>(peak_bytes(ours, p)),
               other = static_cast<double>(peak_bytes(theirs, p)),
               gradients = static_cast<double>(p.hidden.nbytes() + p.weight.nbytes());
  double fastest_own = 1e9, fastest_other = 1e9;
  for (auto _ : state) {
    const double seconds = fastest(1, [&] { step(ours, p); });
    state.SetIterationTime(seconds);
    fastest_own = std::min(fastest_own, seconds);
    fastest_other = std::min(fastest_other, fastest(1, [&] { step(theirs, p); }));
  }
  report_flops(state, 6.0 * static_cast<double>(n) * static_cast<double>(V) * static_cast<double>(C));
  state.counters["x as fast"] = fastest_other / fastest_own;
  state.counters["MiB"] = own / (1 << 20);
  state.counters["their MiB"] = other / (1 << 20);
  state.counters["x less"] = other / own;
  state.counters["x less beside gradients"] = (other - gradients) / (own - gradients);
}

const bool registered = [] {
  for (const std::int64_t n : {1024, 4096})
    for (const std::int64_t C : {384, 512})
      benchmark::RegisterBenchmark(fmt::format("Loss/n {}, V 65536, C {}", n, C).c_str(), against_libtorch, n,
                                   65536, C)
          ->UseManualTime()
          ->Iterations(n == 1024 ? 5 : 2)
          ->Unit(benchmark::kMillisecond);
  return true;
}();

}  // namespace
}  // namespace wuneng::bench
