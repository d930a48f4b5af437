#include "kernels/wkv7/wkv7.h"

#include <ATen/Dispatch.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/documents.h"
#include "kernels/op.h"
#include "kernels/wkv7/cpu.h"

namespace wuneng::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Problem {
  std::int64_t B, T, H, N;
  std::vector<std::uint8_t> starts;  // [B * T], or empty

  Wkv7Sizes sizes() const { return {T, H, N}; }
  // Element offset of the first token of task (b, h) = b * H + h.
  std::int64_t offset(std::int64_t task) const { return task / H * T * H * N + task % H * N; }
};

Problem problem_of(const at::Tensor& r, const at::Tensor& document_starts) {
  Problem p{r.size(0), r.size(1), r.size(2), r.size(3), {}};
  const std::vector<bool> flags = start_flags(document_starts, p.B * p.T);
  p.starts.assign(flags.begin(), flags.end());
  return p;
}

// r, log_decay, k, v, a, b, initial_state of one (b, h).
template <class T>
Wkv7Inputs<T> inputs_of(const Problem& p, const variable_list& in, std::int64_t task) {
  const auto at = [&](int i) { return in[i].const_data_ptr<T>() + p.offset(task); };
  return {at(0),
          at(1),
          at(2),
          at(3),
          at(4),
          at(5),
          in[6].defined() ? in[6].const_data_ptr<T>() + task * p.N * p.N : nullptr,
          p.starts.empty() ? nullptr : p.starts.data() + task / p.H * p.T};
}

struct Wkv7Function : torch::autograd::Function<Wkv7Function> {
  static variable_list forward(AutogradContext* context, const at::Tensor& r, const at::Tensor& log_decay,
                               const at::Tensor& k, const at::Tensor& v, const at::Tensor& a,
                               const at::Tensor& b, const std::optional<at::Tensor>& state,
                               const std::optional<at::Tensor>& starts_table, bool differentiable) {
    const at::Tensor initial_state = state.value_or(at::Tensor()),
                     document_starts = starts_table.value_or(at::Tensor());
    const Problem p = problem_of(r, document_starts);
    const variable_list in{r, log_decay, k, v, a, b, initial_state};
    const at::Tensor y = at::empty(r.sizes(), r.options()),
                     final_state = at::empty({p.B, p.H, p.N, p.N}, r.options());
    const at::Tensor checkpoints =
        at::empty({differentiable ? p.B * p.H : 0, p.sizes().checkpoints(), p.N, p.N}, r.options());
    // With fewer heads than threads the value channels, which never meet, are shared out too.
    const std::int64_t parts = p.B * p.H < at::get_num_threads() ? p.N / 32 : 1, channels = p.N / parts;
    AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "wkv7", [&] {
      at::parallel_for(0, p.B * p.H * parts, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          const std::int64_t task = i / parts, first = i % parts * channels;
          wkv7_forward_cpu(inputs_of<scalar_t>(p, in, task), p.sizes(), first, first + channels,
                           y.mutable_data_ptr<scalar_t>() + p.offset(task),
                           final_state.mutable_data_ptr<scalar_t>() + task * p.N * p.N,
                           differentiable ? checkpoints[task].mutable_data_ptr<scalar_t>() : nullptr);
        }
      });
    });
    if (differentiable)
      context->save_for_backward({r, log_decay, k, v, a, b, initial_state, document_starts, checkpoints});
    return {y, final_state};
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const auto saved = context->get_saved_variables();
    const variable_list in(saved.begin(), saved.begin() + 7);
    const at::Tensor &r = saved[0], &initial_state = saved[6], &checkpoints = saved[8];
    const Problem p = problem_of(r, saved[7]);
    const at::Tensor dy = gradients[0].defined() ? dense(gradients[0]) : at::Tensor();
    const at::Tensor d_final = gradients[1].defined() ? dense(gradients[1]) : at::Tensor();
    variable_list out;
    for (int i = 0; i < 6; ++i) out.push_back(at::empty(r.sizes(), r.options()));
    const at::Tensor d_initial =
        initial_state.defined() ? at::empty(initial_state.sizes(), r.options()) : at::Tensor();
    AT_DISPATCH_FLOATING_TYPES(r.scalar_type(), "wkv7_backward", [&] {
      const auto state = [&](const at::Tensor& states, std::int64_t task) {
        return states.defined() ? states.mutable_data_ptr<scalar_t>() + task * p.N * p.N : nullptr;
      };
      at::parallel_for(0, p.B * p.H, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t task = begin; task < end; ++task) {
          const auto at = [&](int i) { return out[i].mutable_data_ptr<scalar_t>() + p.offset(task); };
          wkv7_backward_cpu(
              inputs_of<scalar_t>(p, in, task), p.sizes(), checkpoints[task].const_data_ptr<scalar_t>(),
              dy.defined() ? dy.const_data_ptr<scalar_t>() + p.offset(task) : nullptr, state(d_final, task),
              Wkv7GradientOutputs<scalar_t>{at(0), at(1), at(2), at(3), at(4), at(5),
                                            state(d_initial, task)});
        }
      });
    });
    return {out[0], out[1], out[2], out[3], out[4], out[5], d_initial, at::Tensor(), at::Tensor()};
  }
};

bool needs_gradient(std::initializer_list<at::Tensor> tensors) {
  return at::GradMode::is_enabled() && std::any_of(tensors.begin(), tensors.end(), [](const at::Tensor& x) {
           return x.defined() && x.requires_grad();
         });
}

}  // namespace

Wkv7Output wkv7(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial_state,
                const at::Tensor& document_starts) {
  WN_CHECK(r.defined() && r.dim() == 4 && r.numel() > 0,
           "wkv7: r has shape {}, expected [B, T, H, N] with T >= 1", shape_text(r));
  WN_CHECK(r.size(3) == 64 || r.size(3) == 128, "wkv7: head size N = {}, expected 64 or 128", r.size(3));
  const std::pair<const char*, const at::Tensor*> inputs[] = {
      {"r", &r}, {"log_decay", &log_decay}, {"k", &k}, {"v", &v}, {"a", &a}, {"b", &b}};
  for (const auto& [name, tensor] : inputs) check_input("wkv7", name, *tensor, r.sizes(), r);
  if (initial_state.defined())
    check_input("wkv7", "initial_state", initial_state, {r.size(0), r.size(2), r.size(3), r.size(3)}, r);
  check_document_starts("wkv7", document_starts, r.size(0) * r.size(1));
  const variable_list out =
      Wkv7Function::apply(r, log_decay, k, v, a, b, optional(initial_state), optional(document_starts),
                          needs_gradient({r, log_decay, k, v, a, b, initial_state}));
  return {out[0], out[1]};
}

}  // namespace wuneng::kernels
