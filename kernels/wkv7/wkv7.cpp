#include "kernels/wkv7/wkv7.h"

#include <torch/csrc/autograd/custom_function.h>

#include "kernels/documents.h"
#include "kernels/op.h"
#include "kernels/wkv7/dispatch.h"

namespace wuneng::kernels {

Wkv7Problem::Wkv7Problem(const at::Tensor& r, const at::Tensor& document_starts, bool states_per_document)
    : B(r.size(0)), T(r.size(1)), H(r.size(2)), N(r.size(3)) {
  const bool listed = document_starts.defined() && document_starts.numel() > 0;
  std::span<const std::int64_t> starts;
  if (listed)
    starts = {document_starts.const_data_ptr<std::int64_t>(),
              static_cast<std::size_t>(document_starts.numel())};
  sequences = wkv7_sequences(B, T, starts, states_per_document);
  states = states_per_document ? static_cast<std::int64_t>(sequences.size()) : B;
  documents = listed;
}

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor contiguous_or_undefined(const at::Tensor& gradient) {
  return gradient.defined() ? dense(gradient) : gradient;
}

struct Wkv7Function : torch::autograd::Function<Wkv7Function> {
  static variable_list forward(AutogradContext* context, const at::Tensor& r, const at::Tensor& log_decay,
                               const at::Tensor& k, const at::Tensor& v, const at::Tensor& a,
                               const at::Tensor& b, const std::optional<at::Tensor>& state,
                               const std::optional<at::Tensor>& starts_table, bool states_per_document,
                               bool differentiable) {
    const at::Tensor initial_state = state.value_or(at::Tensor()),
                     document_starts = starts_table.value_or(at::Tensor());
    const Wkv7Problem p(r, document_starts, states_per_document);
    const auto run = r.is_cuda() ? wkv7_forward_on_cuda : wkv7_forward_on_cpu;
    const Wkv7Forward out = run(p, {r, log_decay, k, v, a, b}, initial_state, differentiable);
    if (differentiable) {
      context->save_for_backward({r, log_decay, k, v, a, b, initial_state, document_starts, out.kept});
      context->saved_data["states_per_document"] = states_per_document;
    }
    return {out.y, out.final_state};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const Wkv7Tensors in{saved[0], saved[1], saved[2], saved[3], saved[4], saved[5]};
    const Wkv7Problem p(in[0], saved[7], context->saved_data["states_per_document"].toBool());
    const auto run = in[0].is_cuda() ? wkv7_backward_on_cuda : wkv7_backward_on_cpu;
    const Wkv7Backward out = run(p, in, saved[6], saved[8], contiguous_or_undefined(gradients[0]),
                                 contiguous_or_undefined(gradients[1]));
    variable_list result(out.inputs.begin(), out.inputs.end());
    result.push_back(out.initial_state);
    result.resize(10);  // the table and the two flags have no gradient
    return result;
  }
};

bool needs_gradient(std::initializer_list<at::Tensor> tensors) {
  return at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& x) {
           return x.defined() && x.requires_grad();
         });
}

// The state is in fp32 whatever the inputs, float64 for float64.
void check_state(const at::Tensor& state, std::int64_t states, const at::Tensor& r) {
  const auto dtype = r.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  WN_CHECK(state.scalar_type() == dtype, "wkv7: initial_state has dtype {}, expected {} with inputs of {}",
           c10::toString(state.scalar_type()), c10::toString(dtype), c10::toString(r.scalar_type()));
  const std::array<std::int64_t, 4> shape{states, r.size(2), r.size(3), r.size(3)};
  check_input("wkv7", "initial_state", state, shape, at::empty({0}, r.options().dtype(dtype)));
}

// bfloat16 on the CPU: computed in float32, through differentiable conversions.
Wkv7Output in_float32(const std::array<const at::Tensor*, 6>& in, const at::Tensor& initial_state,
                      const at::Tensor& document_starts, StatesPer states) {
  std::array<at::Tensor, 6> x;
  for (std::size_t i = 0; i < x.size(); ++i) {
    WN_CHECK(in[i]->defined() && in[i]->scalar_type() == at::kBFloat16,
             "wkv7: input {} of r, log_decay, k, v, a, b is {}, expected bfloat16 as r", i,
             in[i]->defined() ? c10::toString(in[i]->scalar_type()) : "undefined");
    x[i] = in[i]->to(at::kFloat);
  }
  const Wkv7Output out = wkv7(x[0], x[1], x[2], x[3], x[4], x[5], initial_state, document_starts, states);
  return {out.y.to(at::kBFloat16), out.final_state};
}

}  // namespace

Wkv7Output wkv7(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial_state,
                const at::Tensor& document_starts, StatesPer states) {
  WN_CHECK(r.defined() && r.dim() == 4 && r.numel() > 0,
           "wkv7: r has shape {}, expected [B, T, H, N] with T >= 1", shape_text(r));
  WN_CHECK(r.size(3) == 64 || r.size(3) == 128, "wkv7: head size N = {}, expected 64 or 128", r.size(3));
  if (r.device().is_cpu() && r.scalar_type() == at::kBFloat16)
    return in_float32({&r, &log_decay, &k, &v, &a, &b}, initial_state, document_starts, states);
  check_document_starts("wkv7", document_starts, r.size(0) * r.size(1));
  const std::pair<const char*, const at::Tensor*> inputs[] = {
      {"r", &r}, {"log_decay", &log_decay}, {"k", &k}, {"v", &v}, {"a", &a}, {"b", &b}};
  for (const auto& [name, x] : inputs) check_input("wkv7", name, *x, r.sizes(), r);
  const bool per_document = states == StatesPer::document;
  if (initial_state.defined())
    check_state(initial_state, Wkv7Problem(r, document_starts, per_document).states, r);
  const variable_list out =
      Wkv7Function::apply(r, log_decay, k, v, a, b, optional(initial_state), optional(document_starts),
                          per_document, needs_gradient({r, log_decay, k, v, a, b, initial_state}));
  return {out[0], out[1]};
}

}  // namespace wuneng::kernels
