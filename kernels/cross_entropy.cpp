#include "kernels/cross_entropy.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/op.h"
#include "kernels/vector_math.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

template <class T>
WUNENG_INLINE T row_log_sum(const T* logits, std::int64_t V) {
  T lanes[16];
  for (T& lane : lanes) lane = logits[0];
  std::int64_t i = 0;
  for (; i + 16 <= V; i += 16)
    for (int l = 0; l < 16; ++l) lanes[l] = logits[i + l] > lanes[l] ? logits[i + l] : lanes[l];
  for (; i < V; ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  T most = lanes[0];
  for (const T lane : lanes) most = lane > most ? lane : most;
  return most + std::log(lane_sum<T>(V, [&](std::int64_t j) { return exponential(logits[j] - most); }));
}

#define WUNENG_CROSS_ENTROPY_ROWS(T)                                                        \
  WUNENG_SIMD T log_sum(const T* logits, std::int64_t V) { return row_log_sum(logits, V); } \
  WUNENG_SIMD void softmax_gradient(const T* logits, T log_sum, std::int64_t target, T g,   \
                                    std::int64_t vocab, std::int64_t V, T* d) {             \
    for (std::int64_t i = 0; i < vocab; ++i) d[i] = g * exponential(logits[i] - log_sum);   \
    for (std::int64_t i = vocab; i < V; ++i) d[i] = T(0);                                   \
    d[target] -= g;                                                                         \
  }
WUNENG_CROSS_ENTROPY_ROWS(float)
WUNENG_CROSS_ENTROPY_ROWS(double)
#undef WUNENG_CROSS_ENTROPY_ROWS

struct CrossEntropy : torch::autograd::Function<CrossEntropy> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& logits, const at::Tensor& targets,
                            std::int64_t vocab) {
    const std::int64_t n = logits.size(0), V = logits.size(1);
    const at::Tensor losses = at::empty({n}, logits.options()), log_sums = at::empty({n}, logits.options());
    const auto* target = targets.const_data_ptr<std::int64_t>();
    AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "cross_entropy", [&] {
      const auto* in = logits.const_data_ptr<scalar_t>();
      auto *loss = losses.mutable_data_ptr<scalar_t>(), *sum = log_sums.mutable_data_ptr<scalar_t>();
      for_row_blocks(n, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
          sum[i] = target[i] < 0 ? scalar_t(0) : log_sum(in + i * V, vocab);
          loss[i] = target[i] < 0 ? scalar_t(0) : sum[i] - in[i * V + target[i]];
        }
      });
    });
    context->save_for_backward({logits, targets, log_sums});
    context->saved_data["vocab"] = vocab;
    return losses;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &logits = saved[0], &targets = saved[1], &log_sums = saved[2];
    const std::int64_t n = logits.size(0), V = logits.size(1), vocab = context->saved_data["vocab"].toInt();
    const at::Tensor g = dense(gradients[0]), d_logits = at::empty(logits.sizes(), logits.options());
    const auto* target = targets.const_data_ptr<std::int64_t>();
    AT_DISPATCH_FLOATING_TYPES(logits.scalar_type(), "cross_entropy_backward", [&] {
      const auto* in = logits.const_data_ptr<scalar_t>();
      const auto *sum = log_sums.const_data_ptr<scalar_t>(), *grad = g.const_data_ptr<scalar_t>();
      auto* out = d_logits.mutable_data_ptr<scalar_t>();
      for_row_blocks(n, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
          if (target[i] < 0)
            std::fill_n(out + i * V, V, scalar_t(0));
          else
            softmax_gradient(in + i * V, sum[i], target[i], grad[i], vocab, V, out + i * V);
        }
      });
    });
    return {d_logits, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, std::int64_t vocab_size) {
  WN_CHECK(logits.dim() == 2, "cross_entropy: logits have shape {}, expected [n, V]", shape_text(logits));
  check_input("cross_entropy", "logits", logits, logits.sizes(), logits);
  WN_CHECK(vocab_size >= 1 && vocab_size <= logits.size(1),
           "cross_entropy: vocab_size = {} with logits of shape {}", vocab_size, shape_text(logits));
  WN_CHECK(targets.defined() && targets.device().is_cpu() && targets.is_contiguous() &&
               targets.scalar_type() == at::kLong && targets.dim() == 1 && targets.size(0) == logits.size(0),
           "cross_entropy: targets have shape {}, expected {} contiguous int64 on the CPU",
           shape_text(targets), logits.size(0));
  const auto* target = targets.const_data_ptr<std::int64_t>();
  for (std::int64_t i = 0; i < targets.numel(); ++i)
    WN_CHECK(target[i] < vocab_size, "cross_entropy: target {} at row {} is outside the vocabulary of {}",
             target[i], i, vocab_size);
  return CrossEntropy::apply(logits, targets, vocab_size);
}

}  // namespace wuneng::kernels
