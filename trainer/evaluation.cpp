#include "trainer/evaluation.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <cmath>
#include <numbers>

namespace wuneng::trainer {
namespace {

std::int64_t text_bytes(const at::Tensor& targets, const data::Tokenizer& tokenizer) {
  const auto* target = targets.const_data_ptr<std::int64_t>();
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    if (target[i] >= 0)
      bytes += static_cast<std::int64_t>(tokenizer.bytes_of(static_cast<std::int32_t>(target[i])).size());
  return bytes;
}

}  // namespace

double Evaluation::perplexity() const { return std::exp(loss); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (bytes == 0) return std::nullopt;
  return loss * static_cast<double>(tokens) / std::numbers::ln2 / static_cast<double>(bytes);
}

double sum_in_order(const at::Tensor& losses) {
  const auto* loss = losses.const_data_ptr<float>();
  double sum = 0.0;
  for (std::int64_t i = 0; i < losses.numel(); ++i) sum += static_cast<double>(loss[i]);
  return sum;
}

Evaluation evaluate(const model::LanguageModel& model, const data::EvaluationSampler& sampler,
                    std::int64_t micro_batch, const data::Tokenizer* tokenizer,
                    parallel::Communicator& data_group) {
  const at::NoGradGuard no_grad;
  const std::int64_t micro_batches = (sampler.samples() + micro_batch - 1) / micro_batch;
  const std::int64_t rounds = (micro_batches + data_group.size() - 1) / data_group.size();
  Evaluation result;
  double total = 0.0;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const data::Batch batch =
        sampler.batch((round * data_group.size() + data_group.rank()) * micro_batch, micro_batch);
    const at::Tensor mine = at::zeros({3}, at::kDouble);  // loss, tokens, bytes
    auto* values = mine.mutable_data_ptr<double>();
    if (batch.real_tokens > 0) {
      values[0] = sum_in_order(model.loss(batch.tokens, batch.targets, batch.document_starts).losses);
      values[1] = static_cast<double>(batch.real_tokens);
      if (tokenizer) values[2] = static_cast<double>(text_bytes(batch.targets, *tokenizer));
    }
    const at::Tensor all = at::empty({data_group.size(), 3}, at::kDouble);
    data_group.all_gather(mine, all);
    for (std::int64_t r = 0; r < data_group.size(); ++r) {
      const auto* row = all.const_data_ptr<double>() + 3 * r;
      total += row[0];
      result.tokens += static_cast<std::int64_t>(row[1]);
      result.bytes += static_cast<std::int64_t>(row[2]);
    }
  }
  result.loss = result.tokens > 0 ? total / static_cast<double>(result.tokens) : 0.0;
  return result;
}

}  // namespace wuneng::trainer
