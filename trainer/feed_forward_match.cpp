#include "trainer/feed_forward_match.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "model/cost.h"
#include "model/language_model.h"

namespace wuneng::trainer {
namespace {

constexpr double tolerance = 0.005;

}  // namespace

std::int64_t count_parameters(const model::ModelConfig& config) {
  std::int64_t count = 0;
  for (const parallel::Parameter& p : model::LanguageModel::parameter_shapes(config))
    count += p.value.numel();
  return count;
}

double cost_of(const Config& config, MatchedCost kind) {
  return kind == MatchedCost::parameters
             ? static_cast<double>(count_parameters(config.model))
             : model::forward_flops(config.model, config.data.sequence_length).total();
}

bool FeedForwardMatch::within_tolerance() const { return std::abs(difference()) <= tolerance; }

std::string FeedForwardMatch::problem() const {
  const char* unit = kind == MatchedCost::parameters ? "parameters" : "FLOPs per token";
  return fmt::format(
      "{:.0f} {} at model.ffn.hidden = {} are the nearest to {:.0f}, {:+.2f} % off, where {} % is allowed; "
      "a channel is worth {:.0f}: {} its width, layers or heads",
      cost, unit, hidden, target, 100.0 * difference(), 100.0 * tolerance, slope,
      cost > target ? "lower" : "raise");
}

FeedForwardMatch match_feed_forward(Config config, double target, MatchedCost kind) {
  const auto at = [&](std::int64_t channels) {
    config.model.feed_forward.hidden = channels;
    return cost_of(config, kind);
  };
  // Every cost is a straight line over the channels.
  const double one = at(1), slope = at(2) - one;
  FeedForwardMatch match{.kind = kind, .target = target, .slope = slope};
  for (const std::int64_t step : {8, 4, 2, 1}) {
    const double steps = (target - one + slope) / (slope * static_cast<double>(step));
    match.hidden = step * std::max<std::int64_t>(1, std::llround(steps));
    match.cost = at(match.hidden);
    if (match.within_tolerance()) break;
  }
  return match;
}

}  // namespace wuneng::trainer
