#include "kernels/token_shift.h"

#include <ATen/Dispatch.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/cuda_launch.h"
#include "kernels/documents.h"
#include "kernels/op.h"
#include "kernels/simd.h"
#include "kernels/token_shift_launch.h"

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

struct Problem {
  at::Tensor x, mix;
  at::Tensor previous;  // undefined: zero
  at::Tensor starts;    // of documents: the table on the CPU, a flag per token on CUDA; undefined: none

  std::int64_t M() const { return mix.size(0); }
  std::int64_t tokens() const { return x.size(0) * x.size(1); }
  TokenShiftSizes sizes() const { return {x.size(0), x.size(1), x.size(2)}; }
};

// -------------------------------------------------------------------------- CPU ----

template <class T>
void forward_on_cpu(const Problem& p, const variable_list& out) {
  const std::int64_t length = p.x.size(1), C = p.x.size(2);
  const std::vector<bool> starts = start_flags(p.starts, p.tokens());
  const T *x = input<T>(p.x), *mix = input<T>(p.mix), *previous = input<T>(p.previous);
  for_row_blocks(p.tokens(), [&](std::int64_t, std::int64_t first, std::int64_t last) {
    for (std::int64_t token = first; token < last; ++token) {
      const T* before = token_before(x, previous, token, length, C, starts);
      for (std::int64_t m = 0; m < p.M(); ++m)
        shift_token(x + token * C, before, mix + m * C, C, output<T>(out[m]) + token * C);
    }
  });
}

// d: a gradient per output, undefined: zero. Returns d_x, d_mix, d_previous.
template <class T>
variable_list backward_on_cpu(const Problem& p, const variable_list& d) {
  const std::int64_t length = p.x.size(1), C = p.x.size(2), M = p.M();
  const std::vector<bool> starts = start_flags(p.starts, p.tokens());
  const auto cut = [&](std::int64_t token) {
    return !starts.empty() && starts[static_cast<std::size_t>(token)];
  };
  const T *x = input<T>(p.x), *mix = input<T>(p.mix), *previous = input<T>(p.previous);
  const at::Tensor d_x = at::zeros(p.x.sizes(), p.x.options());
  const at::Tensor d_previous = p.previous.defined() ? at::zeros_like(p.previous) : at::Tensor();
  const at::Tensor partial = at::zeros({row_blocks(p.tokens()), M, C}, p.x.options());
  for_row_blocks(p.tokens(), [&](std::int64_t block, std::int64_t first, std::int64_t last) {
    for (std::int64_t m = 0; m < M; ++m) {
      if (!d[m].defined()) continue;
      const T* gradient = input<T>(d[m]);
      T* mix_sum = output<T>(partial) + (block * M + m) * C;
      for (std::int64_t token = first; token < last; ++token) {
        const bool looked_at = (token + 1) % length > 0 && !cut(token + 1);  // by the row's next token
        add_token_gradient(gradient + token * C, looked_at ? gradient + (token + 1) * C : nullptr,
                           mix + m * C, C, output<T>(d_x) + token * C);
        add_mix_gradient(gradient + token * C, x + token * C,
                         token_before(x, previous, token, length, C, starts), C, mix_sum);
      }
    }
  });
  for (std::int64_t b = 0; previous && b < p.x.size(0); ++b)
    for (std::int64_t m = 0; m < M; ++m)
      if (d[m].defined() && !cut(b * length))
        scale_into(input<T>(d[m]) + b * length * C, mix + m * C, C, output<T>(d_previous) + b * C);
  return {d_x, sum_blocks<T>(partial), d_previous};
}

// ------------------------------------------------------------------------- CUDA ----

// One byte per token, on x's device; undefined when no document starts. The copy is staged before the call
// returns, and nobody waits for it.
at::Tensor start_flags_on_device(const at::Tensor& document_starts, const at::Tensor& x) {
  const std::vector<bool> starts = start_flags(document_starts, x.size(0) * x.size(1));
  if (starts.empty()) return {};
  const at::Tensor flags = at::empty({static_cast<std::int64_t>(starts.size())}, at::kByte);
  std::copy(starts.begin(), starts.end(), flags.mutable_data_ptr<std::uint8_t>());
  return flags.to(x.device(), at::kByte, /*non_blocking=*/true);
}

template <class Element>
TokenShiftInputs<Element> arguments(const Problem& p) {
  return {input<Element>(p.x), input<Element>(p.mix), input<Element>(p.previous),
          input<std::uint8_t>(p.starts)};
}

void forward_on_cuda(const Problem& p, const variable_list& out) {
  cuda_launch("token_shift", p.x, [&]<class Element>(void* stream) {
    TokenShiftOutputs<Element> results{};
    for (std::size_t m = 0; m < out.size(); ++m) results.out[m] = output<Element>(out[m]);
    return token_shift_cuda(arguments<Element>(p), p.sizes(), static_cast<int>(p.M()), results, stream);
  });
}

variable_list backward_on_cuda(const Problem& p, const variable_list& d) {
  const at::Tensor d_x = at::empty(p.x.sizes(), p.x.options());
  const at::Tensor d_previous = p.previous.defined() ? at::zeros_like(p.previous) : at::Tensor();
  const std::int64_t slices = token_shift_slices(p.sizes(), token_shift_backward_slice);
  const at::Tensor partial = empty_partial(slices, p.mix.sizes(), p.x);
  cuda_launch("token_shift", p.x, [&]<class Element>(void* stream) {
    TokenShiftGradients<Element> g{{}, output<Element>(d_x), output<Element>(d_previous)};
    for (std::size_t m = 0; m < d.size(); ++m) g.d_out[m] = input<Element>(d[m]);
    return token_shift_backward_cuda(arguments<Element>(p), p.sizes(), static_cast<int>(p.M()), g,
                                     output<float>(partial), stream);
  });
  return {d_x, sum_slices("token_shift", partial, p.mix), d_previous};
}

// --------------------------------------------------------------------- autograd ----

struct TokenShift : torch::autograd::Function<TokenShift> {
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& mix,
                               const std::optional<at::Tensor>& previous,
                               const std::optional<at::Tensor>& starts_table) {
    const at::Tensor document_starts = starts_table.value_or(at::Tensor());
    const Problem p{x, mix, previous.value_or(at::Tensor()),
                    x.is_cuda() ? start_flags_on_device(document_starts, x) : document_starts};
    variable_list out;
    for (std::int64_t m = 0; m < p.M(); ++m) out.push_back(at::empty(x.sizes(), x.options()));
    if (x.is_cuda())
      forward_on_cuda(p, out);
    else
      AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "token_shift", [&] { forward_on_cpu<scalar_t>(p, out); });
    context->save_for_backward({p.x, p.mix, p.previous, p.starts});
    context->set_materialize_grads(false);
    return out;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const Problem p{saved[0], saved[1], saved[2], saved[3]};
    variable_list d, out;
    for (const at::Tensor& gradient : gradients) d.push_back(gradient.defined() ? dense(gradient) : gradient);
    if (p.x.is_cuda())
      out = backward_on_cuda(p, d);
    else
      AT_DISPATCH_FLOATING_TYPES(p.x.scalar_type(), "token_shift",
                                 [&] { out = backward_on_cpu<scalar_t>(p, d); });
    out.push_back(at::Tensor());
    return out;
  }
};

// What the CUDA kernels are made for.
void check_cuda_shapes(const at::Tensor& x, const at::Tensor& mix) {
  if (!x.is_cuda()) return;
  WN_CHECK(x.size(2) % 8 == 0, "token_shift: x has shape {}, C must be a multiple of 8 on CUDA",
           shape_text(x));
  WN_CHECK(mix.size(0) == 1 || mix.size(0) == token_shift_mixes,
           "token_shift: mix has shape {}, 1 or {} interpolations on CUDA", shape_text(mix),
           token_shift_mixes);
}

}  // namespace

std::vector<at::Tensor> token_shift(const at::Tensor& x, const at::Tensor& mix, const at::Tensor& previous,
                                    const at::Tensor& document_starts) {
  WN_CHECK(x.dim() == 3, "token_shift: x has shape {}, expected [B, T, C]", shape_text(x));
  WN_CHECK(mix.dim() == 2 && mix.size(0) >= 1, "token_shift: mix has shape {}, expected [M, {}]",
           shape_text(mix), x.size(2));
  check_input("token_shift", "x", x, x.sizes(), x);
  check_input("token_shift", "mix", mix, {mix.size(0), x.size(2)}, x);
  check_cuda_shapes(x, mix);
  const at::Tensor carried = previous.defined() ? dense(previous) : previous;
  if (carried.defined()) check_input("token_shift", "previous", carried, {x.size(0), x.size(2)}, x);
  check_document_starts("token_shift", document_starts, x.size(0) * x.size(1));
  return TokenShift::apply(x, mix, optional(carried), optional(document_starts));
}

}  // namespace wuneng::kernels
