#include "kernels/linear_cross_entropy.h"

#include <ATen/Dispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/op.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr std::int64_t block_bytes = 32 << 20;  // of logits held at once

// Tokens per block: fixed by the shape, so that the sums over blocks are too.
std::int64_t tokens_per_block(std::int64_t V, std::int64_t element_bytes) {
  const std::int64_t rows = block_bytes / (V * element_bytes) / row_block * row_block;
  return std::clamp<std::int64_t>(rows, row_block, 4096);
}

template <class T>
struct Row {
  T log_sum, most;  // log sum exp and maximum of the logits
};

template <class T>
WUNENG_INLINE Row<T> describe_row(const T* logits, std::int64_t V) {
  T lanes[16];
  for (T& lane : lanes) lane = logits[0];
  std::int64_t i = 0;
  for (; i + 16 <= V; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = logits[i + l] > lanes[l] ? logits[i + l] : lanes[l];
  for (; i < V; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  T most = lanes[0];
  for (const T lane : lanes) most = lane > most ? lane : most;
  const T log_sum =
      most + std::log(lane_sum<T>(V, [&](std::int64_t j) { return exponential(logits[j] - most); }));
  return {log_sum, most};
}

template <class T>
struct Task {
  std::int64_t vocab, V;
  T z_loss, pull;
  bool gradient;
};

// One token: its loss and, added to *objective, its share of the objective; the logits become their gradient.
#define WUNENG_LINEAR_CROSS_ENTROPY_ROW(T)                                                                  \
  WUNENG_SIMD T token_loss(const Task<T>& task, std::int64_t target, T* logits, T* objective) {             \
    const Row<T> row = describe_row(logits, task.vocab);                                                    \
    const T loss = row.log_sum - logits[target];                                                            \
    *objective = loss + task.z_loss * row.log_sum * row.log_sum + task.pull * row.most * row.most / T(2);   \
    if (!task.gradient) return loss;                                                                        \
    std::int64_t largest = 0;                                                                               \
    while (logits[largest] != row.most) ++largest;                                                          \
    const T scale = T(1) + T(2) * task.z_loss * row.log_sum;                                                \
    for (std::int64_t i = 0; i < task.vocab; ++i) logits[i] = scale * exponential(logits[i] - row.log_sum); \
    for (std::int64_t i = task.vocab; i < task.V; ++i) logits[i] = T(0);                                    \
    logits[target] -= T(1);                                                                                 \
    logits[largest] += task.pull * row.most;                                                                \
    return loss;                                                                                            \
  }
WUNENG_LINEAR_CROSS_ENTROPY_ROW(float)
WUNENG_LINEAR_CROSS_ENTROPY_ROW(double)
#undef WUNENG_LINEAR_CROSS_ENTROPY_ROW

// The logits of a block of tokens, in place, with their losses and objectives.
template <class T>
void block_losses(const Task<T>& task, const std::int64_t* targets, at::Tensor& logits, T* losses,
                  T* objectives) {
  T* rows = logits.mutable_data_ptr<T>();
  for_row_blocks(logits.size(0), [&](std::int64_t, std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      losses[i] = objectives[i] = T(0);
      if (targets[i] >= 0)
        losses[i] = token_loss(task, targets[i], rows + i * task.V, objectives + i);
      else if (task.gradient)
        std::fill_n(rows + i * task.V, task.V, T(0));
    }
  });
}

struct Gradients {
  at::Tensor hidden, weight;
};

// Writes losses and objectives [n], and gradients where they are defined.
void run(const at::Tensor& hidden, const at::Tensor& weight, const at::Tensor& targets, std::int64_t vocab,
         LogitPenalties penalties, const at::Tensor& losses, const at::Tensor& objectives,
         const Gradients& d) {
  const std::int64_t n = hidden.size(0), V = weight.size(0),
                     step = std::min(n, tokens_per_block(V, hidden.element_size()));
  const at::Tensor buffer = at::empty({step, V}, hidden.options());
  at::Tensor d_weight = d.weight;
  AT_DISPATCH_FLOATING_TYPES(hidden.scalar_type(), "linear_cross_entropy", [&] {
    const Task<scalar_t> task{vocab, V, static_cast<scalar_t>(penalties.z_loss),
                              static_cast<scalar_t>(penalties.pull), d_weight.defined()};
    for (std::int64_t first = 0; first < n; first += step) {
      const std::int64_t count = std::min(step, n - first);
      const at::Tensor h = hidden.narrow(0, first, count);
      at::Tensor logits = buffer.narrow(0, 0, count);
      at::mm_out(logits, h, weight.t());
      block_losses(task, targets.const_data_ptr<std::int64_t>() + first, logits,
                   losses.mutable_data_ptr<scalar_t>() + first,
                   objectives.mutable_data_ptr<scalar_t>() + first);
      if (!task.gradient) continue;
      at::Tensor d_hidden = d.hidden.narrow(0, first, count);
      at::mm_out(d_hidden, logits, weight);
      d_weight.addmm_(logits.t(), h);
    }
  });
}

struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& weight,
                               const at::Tensor& targets, std::int64_t vocab, double z_loss, double pull,
                               bool differentiable) {
    const at::Tensor losses = at::empty({hidden.size(0)}, hidden.options()),
                     objectives = at::empty_like(losses);
    Gradients d;
    if (differentiable) d = {at::empty_like(hidden), at::zeros_like(weight)};
    run(hidden, weight, targets, vocab, {z_loss, pull}, losses, objectives, d);
    if (differentiable) context->save_for_backward({d.hidden, d.weight});
    context->mark_non_differentiable({losses});
    return {sum_rows(objectives), losses};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor& g = gradients[0];
    return {saved[0].mul(g), saved[1].mul(g), at::Tensor(), at::Tensor(),
            at::Tensor(),    at::Tensor(),    at::Tensor()};
  }

 private:
  // In order, in double.
  static at::Tensor sum_rows(const at::Tensor& objectives) {
    const at::Tensor terms = objectives.to(at::kDouble);
    const auto* term = terms.const_data_ptr<double>();
    double sum = 0.0;
    for (std::int64_t i = 0; i < terms.numel(); ++i) sum += term[i];
    return at::empty({}, objectives.options()).fill_(sum);
  }
};

void check_targets(const at::Tensor& targets, std::int64_t n, std::int64_t vocab_size) {
  WN_CHECK(targets.defined() && targets.device().is_cpu() && targets.is_contiguous() &&
               targets.scalar_type() == at::kLong && targets.dim() == 1 && targets.size(0) == n,
           "linear_cross_entropy: targets have shape {}, expected {} contiguous int64 on the CPU",
           shape_text(targets), n);
  const auto* target = targets.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i)
    WN_CHECK(target[i] < vocab_size,
             "linear_cross_entropy: target {} at row {} is outside the vocabulary of {}", target[i], i,
             vocab_size);
}

}  // namespace

LinearCrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets, std::int64_t vocab_size,
                                        LogitPenalties penalties) {
  constexpr const char* op = "linear_cross_entropy";
  WN_CHECK(hidden.dim() == 2 && hidden.size(0) > 0, "{}: hidden has shape {}, expected [n, C]", op,
           shape_text(hidden));
  WN_CHECK(weight.dim() == 2 && vocab_size >= 1 && vocab_size <= weight.size(0),
           "{}: vocab_size = {} with a weight of shape {}, expected [V, {}]", op, vocab_size,
           shape_text(weight), hidden.size(1));
  check_cpu_input(op, "hidden", hidden, hidden.sizes(), hidden);
  check_cpu_input(op, "weight", weight, {weight.size(0), hidden.size(1)}, hidden);
  check_targets(targets, hidden.size(0), vocab_size);
  const bool differentiable =
      at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  const variable_list out = LinearCrossEntropyFunction::apply(
      hidden, weight, targets, vocab_size, penalties.z_loss, penalties.pull, differentiable);
  return {out[0], out[1]};
}

}  // namespace wuneng::kernels
