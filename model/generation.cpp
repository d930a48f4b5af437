#include "model/generation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "common/hash.h"

namespace wuneng::model {
namespace {

constexpr std::size_t prompt_piece = 512;  // tokens read at once: bounds the memory that a long prompt takes

double uniform_draw(std::uint64_t seed, std::uint64_t index) {
  return static_cast<double>(mix_bits(mix_bits(seed) ^ index) >> 11) * 0x1.0p-53;
}

}  // namespace

std::int64_t sample(const at::Tensor& logits, const SamplingConfig& config, double uniform) {
  const auto* logit = logits.const_data_ptr<float>();
  std::vector<std::int64_t> order(static_cast<std::size_t>(logits.numel()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return logit[a] > logit[b]; });
  if (config.temperature <= 0.0) return order.front();
  if (config.top_k > 0 && config.top_k < static_cast<std::int64_t>(order.size())) order.resize(config.top_k);

  std::vector<double> weight(order.size());
  for (std::size_t i = 0; i < order.size(); ++i)
    weight[i] = std::exp((static_cast<double>(logit[order[i]]) - static_cast<double>(logit[order[0]])) /
                         config.temperature);
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  double kept = 0.0;
  std::size_t count = 0;
  while (count < weight.size() && (count == 0 || kept < config.top_p * total)) kept += weight[count++];

  double remaining = uniform * kept;
  for (std::size_t i = 0; i < count; ++i)
    if ((remaining -= weight[i]) < 0.0) return order[i];
  return order[count - 1];
}

void Generator::read(std::span<const std::int32_t> tokens) {
  const at::NoGradGuard no_grad;
  for (std::size_t begin = 0; begin < tokens.size(); begin += prompt_piece) {
    const auto piece = tokens.subspan(begin, std::min(prompt_piece, tokens.size() - begin));
    const at::Tensor ids = at::empty({1, static_cast<std::int64_t>(piece.size())}, at::kLong);
    std::copy(piece.begin(), piece.end(), ids.mutable_data_ptr<std::int64_t>());
    const at::Tensor hidden = model_.hidden(ids, {}, &state_);
    logits_ = model_.logits(hidden.select(1, hidden.size(1) - 1)).flatten();
  }
}

std::int32_t Generator::next() {
  WN_CHECK(logits_.defined(), "Generator: read a prompt first");
  const auto token =
      static_cast<std::int32_t>(sample(logits_, config_, uniform_draw(config_.seed, drawn_++)));
  read({&token, 1});
  return token;
}

}  // namespace wuneng::model
