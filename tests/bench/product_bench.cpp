// The products of a training step of width 384 and 2,048 tokens against LibTorch's, in turns, in the same
// run: build/wuneng_bench --benchmark_filter=Product. CPU, float32; the share is of LibTorch's large product.
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>

#include "kernels/product.h"
#include "tests/bench/report.h"

namespace wuneng::bench {
namespace {

struct Shape {
  const char* name;
  std::int64_t M, N, K;
  bool left_transposed, right_transposed;
};

constexpr std::int64_t tokens = 2048, width = 384, hidden = 1536, vocabulary = 8192;
constexpr Shape shapes[] = {
    {"projection", tokens, width, width, false, true},
    {"feed-forward", tokens, hidden, width, false, true},
    {"feed-forward, back to the width", tokens, width, hidden, false, true},
    {"low rank", tokens, 64, width, false, false},
    {"logits", tokens, vocabulary, width, false, true},
    {"gradient of an input", tokens, width, hidden, false, false},
    {"gradient of a weight", hidden, width, tokens, true, false},
    {"gradient of the head", vocabulary, width, tokens, true, false},
    {"one token", 1, hidden, width, false, true},
};

void against_libtorch(benchmark::State& state, const Shape& s) {
  const auto matrix = [](std::int64_t rows, std::int64_t columns, bool transposed) {
    return transposed ? at::randn({columns, rows}).t() : at::randn({rows, columns});
  };
  const at::Tensor a = matrix(s.M, s.K, s.left_transposed), b = matrix(s.K, s.N, s.right_transposed);
  at::Tensor out = at::empty({s.M, s.N});
  double own = 1e9, other = 1e9;
  for (auto _ : state) {
    const double seconds = fastest(1, [&] { kernels::product_out(out, a, b); });
    state.SetIterationTime(seconds);
    own = std::min(own, seconds);
    other = std::min(other, fastest(1, [&] { at::mm_out(out, a, b); }));
  }
  report_flops(state, 2.0 * static_cast<double>(s.M) * static_cast<double>(s.N) * static_cast<double>(s.K));
  state.counters["x as fast"] = other / own;
}

const bool registered = [] {
  for (const Shape& s : shapes)
    benchmark::RegisterBenchmark(fmt::format("Product/{}", s.name).c_str(), against_libtorch, s)
        ->UseManualTime()
        ->Iterations(30)
        ->Unit(benchmark::kMicrosecond);
  return true;
}();

}  // namespace
}  // namespace wuneng::bench
