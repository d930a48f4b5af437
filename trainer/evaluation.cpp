#include "trainer/evaluation.h"

#include <ATen/core/Reduction.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numbers>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

// What one micro-batch adds to an evaluation; ranks exchange it as numbers.
struct Tally {
  double loss = 0.0, tokens = 0.0, bytes = 0.0;
  double examples = 0.0, special_examples = 0.0;          // of a task
  double shares = 0.0, whole = 0.0, special_whole = 0.0;  // sums over examples

  static constexpr std::int64_t numbers = 8;
  Tally& operator+=(const Tally& other) {
    loss += other.loss, tokens += other.tokens, bytes += other.bytes;
    examples += other.examples, special_examples += other.special_examples;
    shares += other.shares, whole += other.whole, special_whole += other.special_whole;
    return *this;
  }
};
using Numbers = std::array<double, Tally::numbers>;

// The tallies of all micro-batches, of which the ranks take turns, added in order.
template <class TallyOf>
Tally total(const data::FiniteSamples& samples, std::int64_t micro_batch, parallel::Communicator& data_group,
            const TallyOf& tally_of) {
  const std::int64_t micro_batches = (samples.samples() + micro_batch - 1) / micro_batch;
  const std::int64_t ranks = data_group.size(), rounds = (micro_batches + ranks - 1) / ranks;
  Tally sum;
  for (std::int64_t round = 0; round < rounds; ++round) {
    const data::Batch batch = samples.batch((round * ranks + data_group.rank()) * micro_batch, micro_batch);
    const at::Tensor mine = at::zeros({Tally::numbers}, at::kDouble),
                     all = at::empty({ranks, Tally::numbers}, at::kDouble);
    if (batch.real_tokens > 0) {
      const Tally tally = tally_of(batch);
      std::ranges::copy(std::bit_cast<Numbers>(tally), mine.mutable_data_ptr<double>());
    }
    data_group.all_gather(mine, all);
    for (std::int64_t r = 0; r < ranks; ++r) {
      Numbers row;
      std::copy_n(all.const_data_ptr<double>() + Tally::numbers * r, row.size(), row.begin());
      sum += std::bit_cast<Tally>(row);
    }
  }
  return sum;
}

Evaluation evaluation_of(const Tally& tally) {
  Evaluation result;
  result.loss = tally.tokens > 0 ? tally.loss / tally.tokens : 0.0;
  result.tokens = static_cast<std::int64_t>(tally.tokens);
  result.bytes = static_cast<std::int64_t>(tally.bytes);
  return result;
}

std::int64_t text_bytes(const at::Tensor& targets, const data::Tokenizer& tokenizer) {
  const auto* target = targets.const_data_ptr<std::int64_t>();
  std::int64_t bytes = 0;
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    if (target[i] >= 0)
      bytes += static_cast<std::int64_t>(tokenizer.bytes_of(static_cast<std::int32_t>(target[i])).size());
  return bytes;
}

// How many answers a row asks for, and how many of them are right.
struct RowScore {
  std::int64_t asked = 0, right = 0;
};

// `right`: of every answer of the batch, in order.
std::vector<RowScore> score_rows(const at::Tensor& targets, const at::Tensor& right) {
  const auto* target = targets.const_data_ptr<std::int64_t>();
  const auto* next = right.const_data_ptr<bool>();
  std::vector<RowScore> rows(static_cast<std::size_t>(targets.size(0)));
  for (RowScore& row : rows)
    for (const auto* end = target + targets.size(1); target != end; ++target)
      if (*target >= 0) ++row.asked, row.right += *next++;
  return rows;
}

Tally answers(const model::LanguageModel& model, const data::Batch& batch) {
  const at::Tensor targets = batch.targets.flatten();
  const at::Tensor places = targets.ge(0).nonzero().squeeze(1);
  const at::Tensor hidden = model.hidden(batch.tokens, batch.document_starts).flatten(0, 1);
  const at::Tensor logits =
      model.logits(hidden.index_select(0, places.to(hidden.device()))).to(at::kCPU, at::kFloat);  // [n, V]
  const at::Tensor wanted = targets.index_select(0, places);
  Tally tally;
  tally.loss = sum_in_order(at::cross_entropy_loss(logits, wanted, {}, at::Reduction::None));
  tally.tokens = static_cast<double>(places.numel());
  const std::vector<RowScore> rows = score_rows(batch.targets, logits.argmax(1).eq(wanted));
  for (const RowScore& row : rows) {
    if (row.asked == 0) continue;
    tally.examples += 1.0;
    tally.shares += static_cast<double>(row.right) / static_cast<double>(row.asked);
    tally.whole += row.right == row.asked;
  }
  for (const std::int64_t special : batch.special_rows) {
    const RowScore& row = rows[static_cast<std::size_t>(special)];
    tally.special_examples += 1.0;
    tally.special_whole += row.right == row.asked;
  }
  return tally;
}

double value_of(data::Metric::Score score, const Tally& tally) {
  const auto mean = [](double sum, double n) {
    return n > 0.0 ? sum / n : std::numeric_limits<double>::quiet_NaN();
  };
  switch (score) {
    case data::Metric::Score::share:
      return mean(tally.shares, tally.examples);
    case data::Metric::Score::whole:
      return mean(tally.whole, tally.examples);
    case data::Metric::Score::special:
      return mean(tally.special_whole, tally.special_examples);
  }
  throw Error("a metric without a score");
}

}  // namespace

double Evaluation::perplexity() const { return std::exp(loss); }

std::optional<double> Evaluation::bits_per_byte() const {
  if (bytes == 0) return std::nullopt;
  return loss * static_cast<double>(tokens) / std::numbers::ln2 / static_cast<double>(bytes);
}

double sum_in_order(const at::Tensor& losses) {
  const at::Tensor here = losses.to(at::kCPU);
  const auto* loss = here.const_data_ptr<float>();
  double sum = 0.0;
  for (std::int64_t i = 0; i < here.numel(); ++i) sum += static_cast<double>(loss[i]);
  return sum;
}

Evaluation evaluate(const model::LanguageModel& model, const data::FiniteSamples& samples,
                    std::int64_t micro_batch, const data::Tokenizer* tokenizer,
                    parallel::Communicator& data_group) {
  const at::NoGradGuard no_grad;
  return evaluation_of(total(samples, micro_batch, data_group, [&](const data::Batch& batch) {
    Tally tally;
    tally.loss = sum_in_order(model.loss(batch.tokens, batch.targets, batch.document_starts).losses);
    tally.tokens = static_cast<double>(batch.real_tokens);
    if (tokenizer) tally.bytes = static_cast<double>(text_bytes(batch.targets, *tokenizer));
    return tally;
  }));
}

Evaluation evaluate_task(const model::LanguageModel& model, std::span<const data::TaskTest> tests,
                         std::int64_t micro_batch, parallel::Communicator& data_group) {
  const at::NoGradGuard no_grad;
  std::optional<Evaluation> result;
  for (const data::TaskTest& test : tests) {
    const Tally tally =
        total(test, micro_batch, data_group, [&](const data::Batch& batch) { return answers(model, batch); });
    if (!result) result = evaluation_of(tally);
    for (const data::Metric& metric : test.metrics())
      result->accuracies.push_back({metric.name, test.name(), value_of(metric.score, tally)});
  }
  return result.value();
}

Json accuracy_json(const Evaluation& evaluation) {
  Json json = Json::object();
  for (const Accuracy& accuracy : evaluation.accuracies)
    json[accuracy.metric][accuracy.test] = accuracy.value;
  return json;
}

std::string accuracy_text(const Evaluation& evaluation) {
  std::string text;
  const Json json = accuracy_json(evaluation);
  for (const auto& [metric, tests] : json.items()) {
    text += "  " + metric;
    std::string_view separator = " ";
    for (const auto& [test, value] : tests.items()) {
      text += fmt::format("{}{}: {:.3f}", separator, test, value.get<double>());
      separator = ", ";
    }
  }
  return text;
}

}  // namespace wuneng::trainer
