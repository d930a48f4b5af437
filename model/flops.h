#pragma once

#include <cstdint>

#include "model/config.h"

namespace wuneng::model {

// Floating-point operations of one token's forward pass in sequences of T tokens: 2 per weight of every
// matrix product, 4 N per attended key and head (half of T on average), and 9 N^2 per state head (S a, S r,
// and the three-term update). A training step takes three times as many.
double forward_flops_per_token(const ModelConfig& config, std::int64_t sequence_length);

}  // namespace wuneng::model
