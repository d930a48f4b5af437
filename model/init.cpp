#include "model/init.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>

#include <cmath>

namespace wuneng::model::init {
namespace {

// The bits of a QR factorisation must not depend on how many threads this rank happens to have.
class OneThread {
 public:
  OneThread() : threads_(at::get_num_threads()) { at::set_num_threads(1); }
  ~OneThread() { at::set_num_threads(threads_); }

 private:
  int threads_;
};

at::Generator generator(std::uint64_t seed) { return at::detail::createCPUGenerator(seed); }

at::Tensor orthogonal_matrix(at::IntArrayRef shape, double gain, std::uint64_t seed) {
  const OneThread guard;
  const std::int64_t rows = shape[0], cols = shape[1];
  at::Tensor gaussian = at::empty({std::max(rows, cols), std::min(rows, cols)}, at::kDouble);
  gaussian.normal_(0.0, 1.0, generator(seed));
  auto [q, r] = at::linalg_qr(gaussian);
  q = q.mul(r.diagonal().sgn());  // makes the distribution uniform over orthogonal matrices
  if (rows < cols) q = q.t();
  return q.mul(gain).to(at::kFloat);
}

// Position of a channel inside its head in [-1, 1], squared with its sign: the "zigzag" term of the official
// initialisation.
double zigzag(std::int64_t n, std::int64_t head_size) {
  const double half = static_cast<double>(head_size - 1) / 2.0;
  const double s = (static_cast<double>(n % head_size) - half) / half;
  return s * std::abs(s);
}

double fraction(std::int64_t n, std::int64_t channels) {  // 0 .. 1 over the channels
  return channels > 1 ? static_cast<double>(n) / static_cast<double>(channels - 1) : 0.0;
}

}  // namespace

Initializer constant(double value) {
  return [value](at::IntArrayRef shape, std::uint64_t) { return at::full(shape, value, at::kFloat); };
}

Initializer normal(double std) {
  return [std](at::IntArrayRef shape, std::uint64_t seed) {
    return at::empty(shape, at::kFloat).normal_(0.0, std, generator(seed));
  };
}

Initializer uniform(double bound) {
  return [bound](at::IntArrayRef shape, std::uint64_t seed) {
    return at::empty(shape, at::kFloat).uniform_(-bound, bound, generator(seed));
  };
}

Initializer orthogonal(double gain) {
  return [gain](at::IntArrayRef shape, std::uint64_t seed) { return orthogonal_matrix(shape, gain, seed); };
}

Initializer orthogonal_tall(double gain) {
  return [gain](at::IntArrayRef shape, std::uint64_t seed) {
    const double ratio = static_cast<double>(shape[0]) / static_cast<double>(shape[1]);
    return orthogonal_matrix(shape, gain * std::sqrt(std::max(1.0, ratio)), seed);
  };
}

Initializer per_channel(std::function<double(std::int64_t, std::int64_t)> value) {
  return [value = std::move(value)](at::IntArrayRef shape, std::uint64_t) {
    at::Tensor channels = at::empty(shape, at::kFloat);
    auto* data = channels.mutable_data_ptr<float>();
    for (std::int64_t n = 0; n < channels.numel(); ++n)
      data[n] = static_cast<float>(value(n, channels.numel()));
    return channels;
  };
}

Initializer time_mix(Depth depth) {
  return [depth](at::IntArrayRef shape, std::uint64_t) {
    const double powers[6] = {0.2, 0.9, 0.7, 0.7, 0.9, 0.2};  // r, w, k, v, a, g
    at::Tensor mix = at::empty(shape, at::kFloat);
    auto* data = mix.mutable_data_ptr<float>();
    const std::int64_t width = shape[1];
    for (std::int64_t i = 0; i < 6; ++i)
      for (std::int64_t n = 0; n < width; ++n)
        data[i * width + n] = static_cast<float>(
            1.0 - std::pow(static_cast<double>(n) / static_cast<double>(width), powers[i] * depth.to_last()));
    return mix;
  };
}

Initializer channel_mix(Depth depth) {
  return per_channel([depth](std::int64_t n, std::int64_t channels) {
    return 1.0 -
           std::pow(static_cast<double>(n) / static_cast<double>(channels), std::pow(depth.to_last(), 4));
  });
}

Initializer decay_bias(Depth depth, std::int64_t head_size) {
  return per_channel([depth, head_size](std::int64_t n, std::int64_t channels) {
    const double curve = std::pow(fraction(n, channels), 1.0 + std::pow(depth.from_first(), 0.3));
    return -6.0 + 6.0 * curve + 0.5 + 2.5 * zigzag(n, head_size);
  });
}

Initializer rate_bias(std::int64_t head_size) {
  return per_channel([head_size](std::int64_t n, std::int64_t channels) {
    return -0.19 + 0.3 * zigzag(n, head_size) + 0.4 * (fraction(n, channels) - 0.5);
  });
}

Initializer value_bias() {
  return per_channel(
      [](std::int64_t n, std::int64_t channels) { return 0.73 - 0.4 * (fraction(n, channels) - 0.5); });
}

Initializer removal_key() {
  return per_channel(
      [](std::int64_t n, std::int64_t channels) { return 0.71 - 0.1 * (fraction(n, channels) - 0.5); });
}

Initializer state_norm_weight(Depth depth) {
  return constant(std::pow(static_cast<double>(depth.layer + 1) / static_cast<double>(depth.layers), 0.7));
}

std::int64_t low_rank(LowRank kind, const ModelConfig& config) {
  const StateConfig& state = config.state;
  const auto formula = [&](double factor) {
    const double width = static_cast<double>(config.width);
    const double state_width = static_cast<double>(state.heads * state.head_size);
    const double root = std::sqrt(std::sqrt(width * state_width));
    return std::max<std::int64_t>(32, 32 * static_cast<std::int64_t>(std::nearbyint(factor * root / 32.0)));
  };
  switch (kind) {
    case LowRank::decay:
      return state.decay_rank > 0 ? state.decay_rank : formula(2.5);
    case LowRank::rate:
      return state.rate_rank > 0 ? state.rate_rank : formula(2.5);
    case LowRank::value:
      return state.value_rank > 0 ? state.value_rank : formula(1.7);
    case LowRank::gate:
      return state.gate_rank > 0 ? state.gate_rank : formula(5.0);
  }
  return 0;
}

}  // namespace wuneng::model::init
