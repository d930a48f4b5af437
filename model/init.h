// How parameters start. Every function makes whole (global) tensors from (shape, seed), so that a rank can
// slice its part and the number of ranks changes nothing. The state heads' constants are those of the
// official RWKV-7 training code (arXiv 2503.14456, appendix on initialisation).
#pragma once

#include "model/config.h"
#include "parallel/layers.h"

namespace wuneng::model::init {

using parallel::Initializer;

Initializer constant(double value);
Initializer normal(double std);
Initializer uniform(double bound);         // in [-bound, bound)
Initializer orthogonal(double gain);       // gain times an orthogonal matrix (Saxe et al. 2014)
Initializer orthogonal_tall(double gain);  // the same, times sqrt(rows / cols) where rows > cols

// One value per channel, from its global index n of C.
Initializer per_channel(std::function<double(std::int64_t n, std::int64_t channels)> value);

// Where a layer stands, for depth-dependent constants.
struct Depth {
  std::int64_t layer, layers;
  double from_first() const {
    return layers > 1 ? static_cast<double>(layer) / static_cast<double>(layers - 1) : 0.0;
  }
  double to_last() const { return 1.0 - static_cast<double>(layer) / static_cast<double>(layers); }
};

// Token-shift mixes of the time mix, [6, C] in the order r, w, k, v, a, g; and of the channel mix, [1, C].
Initializer time_mix(Depth depth);
Initializer channel_mix(Depth depth);

// Biases of the state heads, by channel n of their H * N (head size N).
Initializer decay_bias(Depth depth, std::int64_t head_size);
Initializer rate_bias(std::int64_t head_size);
Initializer value_bias();
Initializer removal_key();
Initializer state_norm_weight(Depth depth);

// Ranks of the low-rank maps by the official formula max(32, 32 round(factor * sqrt(width) / 32)), rounding
// half to even; for state heads narrower than the model, sqrt(width * state_width) takes the place of the
// width.
enum class LowRank { decay, rate, value, gate };
std::int64_t low_rank(LowRank kind, const ModelConfig& config);

}  // namespace wuneng::model::init
