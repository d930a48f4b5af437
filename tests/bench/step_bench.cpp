// Where a training step stands against the matrix products of the same core: build/wuneng_bench. One thread
// unless WUNENG_BENCH_THREADS says otherwise.
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdlib>

#include "kernels/wkv7/wkv7.h"
#include "model/flops.h"
#include "model/language_model.h"
#include "trainer/config.h"

namespace {

using namespace wuneng;

// FLOP/s of the best of some large float32 products: the ceiling of everything below, measured in the same
// run.
double sgemm_peak() {
  static const double peak = [] {
    const at::Tensor a = at::randn({1536, 1536}), b = at::randn({1536, 1536});
    double best = 0.0;
    for (int i = 0; i < 10; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      benchmark::DoNotOptimize(at::mm(a, b));
      best =
          std::max(best, 2.0 * 1536 * 1536 * 1536 /
                             std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
  }();
  return peak;
}

void report(benchmark::State& state, double flops) {
  const auto rate = benchmark::Counter::kIsIterationInvariantRate;
  state.counters["GFLOP/s"] = benchmark::Counter(flops / 1e9, rate);
  state.counters["of_sgemm_peak"] = benchmark::Counter(flops / sgemm_peak(), rate);
}

void SgemmPeak(benchmark::State& state) {
  const at::Tensor a = at::randn({1536, 1536}), b = at::randn({1536, 1536});
  for (auto _ : state) benchmark::DoNotOptimize(at::mm(a, b));
  report(state, 2.0 * 1536 * 1536 * 1536);
}
BENCHMARK(SgemmPeak)->UseRealTime();

// Forward and backward of one micro-batch of configs/quickstart.yaml.
void QuickstartMicroBatch(benchmark::State& state) {
  const trainer::Config config = trainer::load_config("configs/quickstart.yaml");
  const auto alone = parallel::make_single();
  const model::LanguageModel model(config.model, *alone, 1);
  const std::int64_t B = config.trainer.micro_batch, T = config.data.sequence_length;
  const at::Tensor tokens = at::randint(0, config.model.vocab_size, {B, T + 1}, at::kLong);
  for (auto _ : state) {
    const at::Tensor losses =
        model.losses(tokens.narrow(1, 0, T).contiguous(), tokens.narrow(1, 1, T).contiguous());
    losses.backward(at::ones_like(losses));
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(B * T), benchmark::Counter::kIsIterationInvariantRate);
  report(state, 3.0 * model::forward_flops_per_token(config.model, T) * static_cast<double>(B * T));
}
BENCHMARK(QuickstartMicroBatch)->UseRealTime()->Unit(benchmark::kMillisecond);

// WKV-7 at B 4, T 512, H 6, N 64.
void Wkv7(benchmark::State& state) {
  const bool backward = state.range(0) != 0;
  constexpr std::int64_t B = 4, T = 512, H = 6, N = 64;
  std::vector<at::Tensor> in;
  for (int i = 0; i < 6; ++i) in.push_back(at::randn({B, T, H, N}));
  in[1] = in[1].sigmoid().mul(-0.6);
  in[4] = in[4].div(in[4].norm(2, -1, true)).neg();
  in[5] = in[4].mul(-0.5);
  if (backward)
    for (at::Tensor& x : in) x.requires_grad_();
  const at::Tensor cotangent = at::randn({B, T, H, N});
  for (auto _ : state) {
    const at::Tensor y = kernels::wkv7(in[0], in[1], in[2], in[3], in[4], in[5]).y;
    if (backward) y.backward(cotangent);
    benchmark::DoNotOptimize(y);
  }
  state.SetLabel(backward ? "forward and backward" : "forward");
  state.counters["us/token-head"] =
      benchmark::Counter(static_cast<double>(B * T * H) / 1e6,
                         benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
  report(state, static_cast<double>(B * T * H) * 9.0 * N * N * (backward ? 3.0 : 1.0));
}
BENCHMARK(Wkv7)->Arg(0)->Arg(1)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  setenv("MKL_CBWR", "AUTO,STRICT", 0);
  const char* threads = std::getenv("WUNENG_BENCH_THREADS");
  at::set_num_threads(threads ? std::atoi(threads) : 1);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
