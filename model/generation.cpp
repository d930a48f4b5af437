#include "model/generation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "common/hash.h"

namespace wuneng::model {
namespace {

constexpr std::int64_t prompt_piece = 512;  // tokens read at once: bounds the memory that a long prompt takes

double uniform_draw(std::uint64_t seed, std::uint64_t index) {
  return static_cast<double>(mix_bits(mix_bits(seed) ^ index) >> 11) * 0x1.0p-53;
}

// The logits after the penalty; a token counts once, however often it was seen.
std::vector<float> penalised(const at::Tensor& logits, double penalty, std::span<const std::int32_t> seen) {
  const auto* from = logits.const_data_ptr<float>();
  std::vector<float> logit(from, from + logits.numel());
  if (penalty == 1.0) return logit;
  for (const std::int32_t token : seen)
    logit[token] = static_cast<float>(from[token] > 0 ? from[token] / penalty : from[token] * penalty);
  return logit;
}

}  // namespace

std::int64_t sample(const at::Tensor& logits, const SamplingConfig& config, double uniform,
                    std::span<const std::int32_t> seen) {
  const std::vector<float> logit = penalised(logits, config.repetition_penalty, seen);
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

Generator::Generator(const LanguageModel& model, const SamplingConfig& config,
                     std::vector<std::vector<std::int32_t>> prompts)
    : model_(model), config_(config), texts_(std::move(prompts)) {
  WN_CHECK(!texts_.empty(), "Generator: there is no prompt");
  for (std::size_t i = 0; i < texts_.size(); ++i)
    WN_CHECK(!texts_[i].empty(), "Generator: prompt {} is empty", i);
  read_prompts();
}

void Generator::read_prompts() {
  const auto rows = static_cast<std::int64_t>(texts_.size());
  const auto length = [](const auto& text) { return std::ssize(text); };
  const std::int64_t longest = length(std::ranges::max(texts_, {}, length));
  for (std::int64_t begin = 0; begin < longest; begin += prompt_piece) {
    const std::int64_t count = std::min(prompt_piece, longest - begin);
    const at::Tensor ids = at::zeros({rows, count}, at::kLong);
    std::vector<std::int64_t> starts;
    for (std::int64_t row = 0; row < rows; ++row) {
      const auto& text = texts_[static_cast<std::size_t>(row)];
      const std::int64_t fill = longest - std::ssize(text);
      auto* to = ids.mutable_data_ptr<std::int64_t>() + row * count;
      for (std::int64_t t = std::max(begin, fill); t < begin + count; ++t)
        to[t - begin] = text[static_cast<std::size_t>(t - fill)];
      if (fill > 0 && fill >= begin && fill < begin + count) starts.push_back(row * count + fill - begin);
    }
    read(ids, starts.empty() ? at::Tensor() : at::tensor(starts));
  }
}

void Generator::read(const at::Tensor& ids, const at::Tensor& document_starts) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = model_.hidden(ids, document_starts, &state_);
  logits_ = model_.logits(hidden.select(1, hidden.size(1) - 1)).to(at::kCPU).contiguous();
}

std::vector<std::int32_t> Generator::next() {
  const auto rows = static_cast<std::int64_t>(texts_.size());
  const at::Tensor ids = at::empty({rows, 1}, at::kLong);
  std::vector<std::int32_t> drawn;
  const double uniform = uniform_draw(config_.seed, drawn_++);  // the same for each text, as if it were alone
  for (std::int64_t row = 0; row < rows; ++row) {
    auto& text = texts_[static_cast<std::size_t>(row)];
    drawn.push_back(static_cast<std::int32_t>(sample(logits_[row], config_, uniform, text)));
    text.push_back(drawn.back());
    ids.mutable_data_ptr<std::int64_t>()[row] = drawn.back();
  }
  read(ids, {});
  return drawn;
}

}  // namespace wuneng::model
