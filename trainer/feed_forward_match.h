// Models of other shapes at equal cost: the feed-forward's width makes up for what they differ in.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/config.h"

namespace wuneng::trainer {

enum class MatchedCost { parameters, flops };  // flops: of a token's forward pass in training sequences

std::int64_t count_parameters(const model::ModelConfig& config);
double cost_of(const Config& config, MatchedCost kind);

// The feed-forward width at which a model costs as much as another.
struct FeedForwardMatch {
  MatchedCost kind = MatchedCost::parameters;
  std::int64_t hidden = 0;  // channels
  double cost = 0.0;        // at that width: parameters, or FLOPs per token
  double target = 0.0;      // of the other model
  double slope = 0.0;       // what one channel more costs

  double difference() const { return cost / target - 1.0; }
  bool within_tolerance() const;  // 0.5 %
  std::string problem() const;    // where it is not: the nearest that can be reached, and the remedy
};

// The width nearest to the target: a multiple of 8 channels where that is near enough, else of 4, 2 or 1.
FeedForwardMatch match_feed_forward(Config config, double target, MatchedCost kind);

}  // namespace wuneng::trainer
