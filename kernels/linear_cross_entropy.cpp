#include "kernels/linear_cross_entropy.h"

#include <ATen/Dispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/where.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/composed.h"
#include "kernels/cuda_launch.h"
#include "kernels/linear_cross_entropy_launch.h"
#include "kernels/op.h"
#include "kernels/product.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* op = "linear_cross_entropy";

// Of logits held at once. Every block reads the weight twice and adds to its gradient: thin blocks wait for
// memory (on the CPU half the bytes cost 8 % of the time), on CUDA sooner, where products are faster.
constexpr std::int64_t cpu_block_bytes = 64 << 20, cuda_block_bytes = 256 << 20;
constexpr std::int64_t largest_vocabulary = 1 << 24;  // on CUDA, whose kernel counts columns in a float

// float32 for bfloat16: of logits, losses, and the gradients until they are complete.
at::TensorOptions wide(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? x.options().dtype(at::kFloat) : x.options();
}

// Tokens per block: fixed by the shape, so that the sums over blocks are too.
std::int64_t tokens_per_block(const at::Tensor& hidden, std::int64_t V) {
  const std::int64_t bytes = hidden.is_cuda() ? cuda_block_bytes : cpu_block_bytes,
                     row = V * static_cast<std::int64_t>(wide(hidden).dtype().itemsize());
  return std::clamp<std::int64_t>(bytes / row / row_block * row_block, row_block, 4096);
}

// Matrices [rows, V] whose rows all begin at a multiple of 16 bytes, in float32 and in bfloat16.
at::Tensor aligned_rows(std::int64_t rows, std::int64_t V, const at::TensorOptions& options) {
  return at::empty({rows, (V + 7) / 8 * 8}, options).narrow(1, 0, V);
}

// ------------------------------------------------------------- a block of tokens ----

struct Problem {
  at::Tensor hidden, weight, targets;
  std::int64_t vocab;
  LogitPenalties penalties;
  const VocabularyShard* shard = nullptr;  // null: the weight is the whole vocabulary
};

// Losses and objectives [n]; the gradients are undefined where none is wanted.
struct Results {
  at::Tensor losses, objectives, d_hidden, d_weight;
};

// The logits of the tokens from `first` on, and their gradient.
struct LogitBlock {
  at::Tensor logits, gradient;
  std::int64_t first;
};

template <class Logit, class Element>
LogitRows<Logit, Element> rows_of(const Problem& p, const Results& out, const LogitBlock& block) {
  return {input<Logit>(block.logits),
          output<Element>(block.gradient),
          input<std::int64_t>(p.targets) + block.first,
          output<Logit>(out.losses) + block.first,
          output<Logit>(out.objectives) + block.first,
          block.logits.size(0),
          p.vocab,
          block.logits.size(1),
          block.logits.stride(0),
          static_cast<Logit>(p.penalties.z_loss),
          static_cast<Logit>(p.penalties.pull)};
}

// Losses, objectives and the gradient of the logits.
void run_rows(const Problem& p, const Results& out, const LogitBlock& block) {
  if (p.hidden.is_cuda())
    cuda_launch(op, p.hidden, [&]<class Element>(void* stream) {
      return logit_rows_cuda(rows_of<float, Element>(p, out, block), stream);
    });
  else
    AT_DISPATCH_FLOATING_TYPES(p.hidden.scalar_type(), op, [&] {
      const auto rows = rows_of<scalar_t, scalar_t>(p, out, block);
      for_row_blocks(rows.rows, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        logit_rows(rows, first, last);
      });
    });
}

// The same of a shard's logits.
void run_shard_rows(const Problem& p, const Results& out, const LogitBlock& block) {
  static_assert(sizeof(RowSummary) == summary_numbers * sizeof(double));
  const std::int64_t n = block.logits.size(0);
  if (!p.hidden.is_cpu()) {
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, block.first, n); };
    return composed::shard_rows({block.logits, part(p.targets), part(out.losses), part(out.objectives),
                                 block.gradient, p.vocab, p.penalties},
                                *p.shard);
  }
  const at::Tensor mine = at::empty({n, summary_numbers}, at::kDouble);
  AT_DISPATCH_FLOATING_TYPES(p.hidden.scalar_type(), op, [&] {
    const auto rows = rows_of<scalar_t, scalar_t>(p, out, block);
    auto* summary = static_cast<RowSummary*>(mine.data_ptr());
    for_row_blocks(n, [&](std::int64_t, std::int64_t first, std::int64_t last) {
      summarise_rows(rows, summary, first, last);
    });
    const at::Tensor all = p.shard->gather(mine);
    const ShardSummaries every{static_cast<const RowSummary*>(all.data_ptr()), p.shard->shards,
                               p.shard->mine};
    for_row_blocks(n, [&](std::int64_t, std::int64_t first, std::int64_t last) {
      finish_rows(rows, every, first, last);
    });
  });
}

void run(const Problem& p, const Results& out) {
  const std::int64_t n = p.hidden.size(0), V = p.weight.size(0),
                     step = std::min(n, tokens_per_block(p.hidden, V));
  const at::Tensor logits = aligned_rows(step, V, wide(p.hidden));
  at::Tensor gradient;  // in place where it has the logits' dtype
  if (out.d_weight.defined())
    gradient =
        p.hidden.scalar_type() == logits.scalar_type() ? logits : aligned_rows(step, V, p.hidden.options());
  for (std::int64_t first = 0; first < n; first += step) {
    const std::int64_t count = std::min(step, n - first);
    const auto part = [&](const at::Tensor& x, std::int64_t from) {
      return x.defined() ? x.narrow(0, from, count) : x;
    };
    const at::Tensor h = part(p.hidden, first);
    const LogitBlock block{part(logits, 0), part(gradient, 0), first};
    product_out(block.logits, h, p.weight.t());
    if (p.shard)
      run_shard_rows(p, out, block);
    else
      run_rows(p, out, block);
    if (!gradient.defined()) continue;
    product_out(part(out.d_hidden, first), block.gradient, p.weight);
    if (first == 0)
      product_out(out.d_weight, block.gradient.t(), h);
    else
      add_product(out.d_weight, block.gradient.t(), h);
  }
}

// ------------------------------------------------------------------------ autograd ----

// The gradients wait in the context. The backward pass takes them out and scales them in place: a second
// copy of the weight's would be the largest tensor here.
struct LinearCrossEntropyFunction : torch::autograd::Function<LinearCrossEntropyFunction> {
  static variable_list forward(AutogradContext* context, const at::Tensor& hidden, const at::Tensor& weight,
                               Problem problem, bool differentiable) {
    problem.hidden = hidden, problem.weight = weight;
    const at::Tensor losses = at::empty({hidden.size(0)}, wide(hidden)), objectives = at::empty_like(losses);
    Results out{losses, objectives, {}, {}};
    if (differentiable) {
      out.d_hidden = at::empty_like(hidden, wide(hidden));
      out.d_weight = at::empty_like(weight, wide(weight));
    }
    run(problem, out);
    if (differentiable) {
      context->saved_data["hidden"] = out.d_hidden;
      context->saved_data["weight"] = out.d_weight;
      context->saved_data["dtype"] = static_cast<std::int64_t>(hidden.scalar_type());
    }
    context->mark_non_differentiable({losses});
    return {sum_rows(objectives), losses};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    WN_CHECK(!at::GradMode::is_enabled(), "{}: has no second derivative: backward() without create_graph",
             op);
    const at::Tensor d_hidden = scaled(take(context, "hidden"), gradients[0], context),
                     d_weight = scaled(take(context, "weight"), gradients[0], context);
    return {d_hidden, d_weight, {}, {}};
  }

 private:
  static at::Tensor take(AutogradContext* context, const char* name) {
    const auto found = context->saved_data.find(name);
    WN_CHECK(found != context->saved_data.end(),
             "{}: a second backward pass over the same graph: its gradients were handed over to the first; "
             "run the forward pass again",
             op);
    at::Tensor gradient = found->second.toTensor();
    context->saved_data.erase(found);
    return gradient;
  }

  // Rounded once, in the dtype of the inputs.
  static at::Tensor scaled(at::Tensor gradient, const at::Tensor& by, AutogradContext* context) {
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    if (by.is_cpu() && by.item<double>() == 1.0) return gradient;  // as in training
    if (gradient.scalar_type() == dtype) return gradient.mul_(by);
    at::Tensor rounded = at::empty_like(gradient, gradient.options().dtype(dtype));
    return at::mul_out(rounded, gradient, by);
  }

  // In double and in a fixed order.
  static at::Tensor sum_rows(const at::Tensor& objectives) {
    if (objectives.is_cuda()) return at::sum(objectives, at::kDouble).to(objectives.scalar_type());
    const at::Tensor terms = objectives.to(at::kDouble);
    const auto* term = terms.const_data_ptr<double>();
    double sum = 0.0;
    for (std::int64_t i = 0; i < terms.numel(); ++i) sum += term[i];
    return at::empty({}, objectives.options()).fill_(sum);
  }
};

// Values are looked at on the CPU alone: on CUDA the host would have to wait for them.
void check_targets(const at::Tensor& targets, const at::Tensor& hidden, std::int64_t vocab_size) {
  const std::int64_t n = hidden.size(0);
  WN_CHECK(targets.defined() && targets.is_contiguous() && targets.scalar_type() == at::kLong &&
               targets.dim() == 1 && targets.size(0) == n,
           "{}: targets have shape {}, expected {} contiguous int64", op, shape_text(targets), n);
  check_device(op, "targets", targets, hidden);
  if (!targets.is_cpu()) return;
  const auto* target = targets.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < n; ++i)
    WN_CHECK(target[i] < vocab_size, "{}: target {} at row {} is outside the vocabulary of {}", op, target[i],
             i, vocab_size);
}

void check_head(const at::Tensor& hidden, const at::Tensor& weight, std::int64_t vocab_size) {
  WN_CHECK(hidden.dim() == 2 && hidden.size(0) > 0, "{}: hidden has shape {}, expected [n, C]", op,
           shape_text(hidden));
  WN_CHECK(weight.dim() == 2 && vocab_size >= 1 && vocab_size <= weight.size(0),
           "{}: vocab_size = {} with a weight of shape {}, expected [V, {}]", op, vocab_size,
           shape_text(weight), hidden.size(1));
  check_input(op, "hidden", hidden, hidden.sizes(), hidden);
  check_input(op, "weight", weight, {weight.size(0), hidden.size(1)}, hidden);
  WN_CHECK(hidden.is_cpu() || weight.size(0) <= largest_vocabulary,
           "{}: weight has shape {}, at most {} rows on CUDA", op, shape_text(weight), largest_vocabulary);
}

LinearCrossEntropy apply(const at::Tensor& hidden, const at::Tensor& weight, const Problem& problem) {
  const bool differentiable =
      at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  const variable_list out = LinearCrossEntropyFunction::apply(hidden, weight, problem, differentiable);
  return {out[0], out[1]};
}

// Targets as rows of the shard's weight.
at::Tensor rows_of_targets(const at::Tensor& targets, const VocabularyShard& shard, std::int64_t rows) {
  const at::Tensor row = targets.sub(shard.begin), here = row.ge(0).logical_and(row.lt(rows));
  return at::where(targets.lt(0), std::int64_t{-1}, at::where(here, row, target_elsewhere));
}

}  // namespace

LinearCrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets, std::int64_t vocab_size,
                                        LogitPenalties penalties) {
  check_head(hidden, weight, vocab_size);
  check_targets(targets, hidden, vocab_size);
  return apply(hidden, weight, {{}, {}, targets, vocab_size, penalties});
}

LinearCrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets, std::int64_t vocab_size,
                                        LogitPenalties penalties, const VocabularyShard& shard) {
  check_head(hidden, weight, vocab_size);
  check_targets(targets, hidden, shard.whole_size);
  const at::Tensor rows = rows_of_targets(targets, shard, vocab_size);
  return apply(hidden, weight, {{}, {}, rows, vocab_size, penalties, &shard});
}

}  // namespace wuneng::kernels
