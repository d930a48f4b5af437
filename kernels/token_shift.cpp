#include "kernels/token_shift.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/documents.h"
#include "kernels/op.h"
#include "kernels/simd.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

#define WUNENG_TOKEN_SHIFT_LOOPS(T)                                                                          \
  /* out = x + (before - x) * mix for one token and one interpolation; before may be null (zero) */          \
  WUNENG_SIMD void shift_token(const T* x, const T* before, const T* mix, std::int64_t C, T* out) {          \
    if (before)                                                                                              \
      for (std::int64_t i = 0; i < C; ++i) out[i] = x[i] + (before[i] - x[i]) * mix[i];                      \
    else                                                                                                     \
      for (std::int64_t i = 0; i < C; ++i) out[i] = x[i] - x[i] * mix[i];                                    \
  }                                                                                                          \
  /* dx += d (1 - mix) + d_next mix, where d_next is the next token's gradient when that token looks back at \
   * this one */                                                                                             \
  WUNENG_SIMD void add_token_gradient(const T* d, const T* d_next, const T* mix, std::int64_t C, T* dx) {    \
    if (d_next)                                                                                              \
      for (std::int64_t i = 0; i < C; ++i) dx[i] += d[i] - d[i] * mix[i] + d_next[i] * mix[i];               \
    else                                                                                                     \
      for (std::int64_t i = 0; i < C; ++i) dx[i] += d[i] - d[i] * mix[i];                                    \
  }                                                                                                          \
  WUNENG_SIMD void add_mix_gradient(const T* d, const T* x, const T* before, std::int64_t C, T* dmix) {      \
    if (before)                                                                                              \
      for (std::int64_t i = 0; i < C; ++i) dmix[i] += d[i] * (before[i] - x[i]);                             \
    else                                                                                                     \
      for (std::int64_t i = 0; i < C; ++i) dmix[i] -= d[i] * x[i];                                           \
  }                                                                                                          \
  WUNENG_SIMD void scale_into(const T* d, const T* mix, std::int64_t C, T* out) {                            \
    for (std::int64_t i = 0; i < C; ++i) out[i] += d[i] * mix[i];                                            \
  }
WUNENG_TOKEN_SHIFT_LOOPS(float)
WUNENG_TOKEN_SHIFT_LOOPS(double)
#undef WUNENG_TOKEN_SHIFT_LOOPS

// The token before row b's token t: the one at t - 1, the carried one at t = 0, none at a document's start.
template <class T>
const T* token_before(const T* x, const T* previous, std::int64_t token, std::int64_t length, std::int64_t C,
                      const std::vector<bool>& starts) {
  if (!starts.empty() && starts[static_cast<std::size_t>(token)]) return nullptr;
  if (token % length > 0) return x + (token - 1) * C;
  return previous ? previous + token / length * C : nullptr;
}

struct TokenShift : torch::autograd::Function<TokenShift> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& mix,
                               const std::optional<at::Tensor>& carried_token,
                               const std::optional<at::Tensor>& starts_table) {
    const at::Tensor previous = carried_token.value_or(at::Tensor()),
                     document_starts = starts_table.value_or(at::Tensor());
    const std::int64_t B = x.size(0), T = x.size(1), C = x.size(2), M = mix.size(0);
    const std::vector<bool> starts = start_flags(document_starts, B * T);
    variable_list out;
    for (std::int64_t m = 0; m < M; ++m) out.push_back(at::empty(x.sizes(), x.options()));
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "token_shift", [&] {
      const auto *in = x.const_data_ptr<scalar_t>(), *mixes = mix.const_data_ptr<scalar_t>();
      const auto* carried = previous.defined() ? previous.const_data_ptr<scalar_t>() : nullptr;
      std::vector<scalar_t*> results;
      for (const at::Tensor& tensor : out) results.push_back(tensor.mutable_data_ptr<scalar_t>());
      for_row_blocks(B * T, [&](std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t token = first; token < last; ++token) {
          const auto* before = token_before(in, carried, token, T, C, starts);
          for (std::int64_t m = 0; m < M; ++m)
            shift_token(in + token * C, before, mixes + m * C, C, results[m] + token * C);
        }
      });
    });
    context->save_for_backward({x, mix, previous, document_starts});
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &mix = saved[1], &previous = saved[2];
    const std::int64_t B = x.size(0), T = x.size(1), C = x.size(2), M = mix.size(0);
    const std::vector<bool> starts = start_flags(saved[3], B * T);
    variable_list dense_gradients;
    for (const at::Tensor& gradient : gradients)
      dense_gradients.push_back(gradient.defined() ? dense(gradient) : gradient);
    const at::Tensor dx = at::zeros(x.sizes(), x.options());
    const at::Tensor partial = at::zeros({row_blocks(B * T), M * C}, x.options());
    const at::Tensor dprevious = previous.defined() ? at::zeros_like(previous) : at::Tensor();
    at::Tensor dmix;
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "token_shift_backward", [&] {
      const auto *in = x.const_data_ptr<scalar_t>(), *mixes = mix.const_data_ptr<scalar_t>();
      const auto* carried = previous.defined() ? previous.const_data_ptr<scalar_t>() : nullptr;
      const auto looks_back =
          [&](std::int64_t token) {  // token exists in its row and its row's token before it is read
            return token % T > 0 && (starts.empty() || !starts[static_cast<std::size_t>(token)]);
          };
      for_row_blocks(B * T, [&](std::int64_t block, std::int64_t first, std::int64_t last) {
        for (std::int64_t m = 0; m < M; ++m) {
          if (!dense_gradients[m].defined()) continue;
          const auto* d = dense_gradients[m].const_data_ptr<scalar_t>();
          auto* mix_sum = partial.mutable_data_ptr<scalar_t>() + block * M * C + m * C;
          for (std::int64_t token = first; token < last; ++token) {
            const bool next = token + 1 < B * T && looks_back(token + 1);
            add_token_gradient(d + token * C, next ? d + (token + 1) * C : nullptr, mixes + m * C, C,
                               dx.mutable_data_ptr<scalar_t>() + token * C);
            add_mix_gradient(d + token * C, in + token * C, token_before(in, carried, token, T, C, starts), C,
                             mix_sum);
          }
        }
      });
      dmix = sum_blocks<scalar_t>(partial).view({M, C});
      for (std::int64_t b = 0; carried && b < B; ++b)
        for (std::int64_t m = 0; m < M; ++m)
          if (dense_gradients[m].defined() && (starts.empty() || !starts[static_cast<std::size_t>(b * T)]))
            scale_into(dense_gradients[m].const_data_ptr<scalar_t>() + b * T * C, mixes + m * C, C,
                       dprevious.mutable_data_ptr<scalar_t>() + b * C);
    });
    return {dx, dmix, dprevious, at::Tensor()};
  }
};

}  // namespace

std::vector<at::Tensor> token_shift(const at::Tensor& x, const at::Tensor& mix, const at::Tensor& previous,
                                    const at::Tensor& document_starts) {
  WN_CHECK(x.dim() == 3, "token_shift: x has shape {}, expected [B, T, C]", shape_text(x));
  WN_CHECK(mix.dim() == 2 && mix.size(0) >= 1, "token_shift: mix has shape {}, expected [M, {}]",
           shape_text(mix), x.size(2));
  check_input("token_shift", "x", x, x.sizes(), x);
  check_input("token_shift", "mix", mix, {mix.size(0), x.size(2)}, x);
  const at::Tensor carried = previous.defined() ? previous.contiguous() : previous;
  if (carried.defined()) check_input("token_shift", "previous", carried, {x.size(0), x.size(2)}, x);
  check_document_starts("token_shift", document_starts, x.size(0) * x.size(1));
  return TokenShift::apply(x, mix, optional(carried), optional(document_starts));
}

}  // namespace wuneng::kernels
