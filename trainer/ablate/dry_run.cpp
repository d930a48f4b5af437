#include <ATen/Parallel.h>
#include <ATen/ops/ones.h>

#include <algorithm>
#include <chrono>

#include "kernels/product.h"
#include "trainer/ablate/child.h"
#include "trainer/ablate/runner.h"
#include "trainer/progress.h"

namespace wuneng::trainer::ablate {
namespace {

// What a training step reaches of a large matrix product's speed; small models reach a little less.
constexpr double usual_share = 0.5;

// Operations per second of a matrix product on so many threads.
double measured_speed(std::int64_t threads) {
  constexpr std::int64_t n = 768;
  at::set_num_threads(static_cast<int>(threads));
  const at::Tensor a = at::ones({n, n}), b = at::ones({n, n});
  kernels::product(a, b);  // the first one also wakes the threads up
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  double seconds = 0.0;
  std::int64_t products = 0;
  for (; seconds < 0.3; seconds = std::chrono::duration<double>(Clock::now() - begin).count(), ++products)
    kernels::product(a, b);
  return static_cast<double>(products) * 2.0 * n * n * n / seconds;
}

// Forward passes over the validation corpus, as far as its size on disk tells.
double validation_flops(const Variant& variant) {
  const Config& config = variant.config;
  std::error_code none;
  const auto bytes = std::filesystem::file_size(config.data.validation + ".bin", none);
  if (config.data.validation.empty() || none) return 0.0;
  const double tokens = static_cast<double>(bytes) / (config.model.vocab_size <= 65'536 ? 2.0 : 4.0);
  const std::int64_t every = config.trainer.validate_every, steps = config.trainer.steps;
  const double times = static_cast<double>(every > 0 ? (steps + every - 1) / every : 1);
  return tokens * times * variant.flops_per_token / 3.0;
}

}  // namespace

std::string dry_run_text(const Plan& plan, const RunnerOptions& options) {
  std::size_t width = 7;
  for (const Variant& variant : plan.variants) width = std::max(width, variant.name.size());
  const bool alone = options.launch.empty();
  const auto cores = alone ? static_cast<std::int64_t>(share_cores(options.jobs).front().size()) : 0;
  const double speed = alone ? measured_speed(cores) : 0.0;
  const auto time_text = [&](double flops) {
    if (!alone) return std::string("-");
    const double seconds = flops / (usual_share * speed), year = 365.0 * 86400.0;
    return seconds < year ? duration_text(seconds) : fmt::format("{:.0f} years", seconds / year);
  };
  std::string text =
      fmt::format("{:<{}}  {:>12}  {:>11}  {:>9}  {:>9}  {:>7}  {:>10}  {:>8}\n", "variant", width,
                  "parameters", "match error", "ffn", "MFLOP/tok", "steps", "FLOPs/run", "time/run");
  double total = 0.0;
  for (const Variant& variant : plan.variants) {
    const double flops = variant.flops() + validation_flops(variant);
    total += flops * static_cast<double>(plan.file.seeds.size());
    text += fmt::format("{:<{}}  {:>12}  {:>+9.2f} %  {:>9}  {:>9.3f}  {:>7}  {:>10.3g}  {:>8}{}\n",
                        variant.name, width, variant.parameters, 100.0 * variant.match_error,
                        variant.config.model.feed_forward.resolved_hidden(variant.config.model.width),
                        variant.flops_per_token / 1e6, variant.config.trainer.steps, flops, time_text(flops),
                        variant.name == plan.file.reference ? "  reference" : "");
  }
  text += fmt::format("{} runs: {} variants x {} seeds; {:.3g} FLOPs with validation\n", plan.runs.size(),
                      plan.variants.size(), plan.file.seeds.size(), total);
  if (!alone) return text + "time: not estimated for runs behind a launch template\n";
  return text + fmt::format(
                    "time: about {} with --jobs {}, if training reaches {:.0f} % of a matrix product's speed "
                    "({:.1f} GFLOP/s on {} core(s), measured now)\n",
                    time_text(total / static_cast<double>(options.jobs)), options.jobs, 100.0 * usual_share,
                    speed / 1e9, cores);
}

}  // namespace wuneng::trainer::ablate
