// Where a training step stands against the matrix products of the same core: build/wuneng_bench. One thread
// unless WUNENG_BENCH_THREADS says otherwise.
#include <ATen/Parallel.h>
#include <ATen/ops/randint.h>
#include <benchmark/benchmark.h>

#include <cstdlib>

#include "common/memory.h"
#include "model/cost.h"
#include "model/language_model.h"
#include "tests/bench/report.h"
#include "trainer/config.h"

namespace {

using namespace wuneng;

using bench::report_flops;

void SgemmPeak(benchmark::State& state) {
  const at::Tensor a = at::randn({1536, 1536}), b = at::randn({1536, 1536});
  for (auto _ : state) benchmark::DoNotOptimize(at::mm(a, b));
  report_flops(state, 2.0 * 1536 * 1536 * 1536);
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
    model.loss(tokens.narrow(1, 0, T).contiguous(), tokens.narrow(1, 1, T).contiguous()).objective.backward();
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(B * T), benchmark::Counter::kIsIterationInvariantRate);
  report_flops(state, 3.0 * model::forward_flops(config.model, T).total() * static_cast<double>(B * T));
}
BENCHMARK(QuickstartMicroBatch)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace

int main(int argc, char** argv) {
  setenv("MKL_CBWR", "AUTO,STRICT", 0);  // as in trainer/main.cpp
  wuneng::keep_freed_memory();
  const char* threads = std::getenv("WUNENG_BENCH_THREADS");
  at::set_num_threads(threads ? std::atoi(threads) : 1);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
