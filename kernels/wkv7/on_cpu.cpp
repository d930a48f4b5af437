#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "kernels/wkv7/cpu.h"
#include "kernels/wkv7/dispatch.h"

namespace wuneng::kernels {
namespace {

// One sequence and head: the unit of parallel work.
struct Task {
  const Wkv7Sequence& sequence;
  std::int64_t head, offset;  // `offset` of its first token's elements

  Task(const Wkv7Problem& p, std::int64_t i)
      : sequence(p.sequences[static_cast<std::size_t>(i / p.H)]),
        head(i % p.H),
        offset((sequence.begin * p.H + head) * p.N) {}
};

std::int64_t tasks(const Wkv7Problem& p) { return static_cast<std::int64_t>(p.sequences.size()) * p.H; }

Wkv7Sizes sizes(const Wkv7Problem& p, const Task& task) { return {task.sequence.length, p.H, p.N}; }

// Element type E's pointer to state `index` of states [.., H, N, N], null without one.
template <class E>
E* state_of(const Wkv7Problem& p, const at::Tensor& states, std::int64_t index, std::int64_t head) {
  if (!states.defined() || index < 0) return nullptr;
  return states.mutable_data_ptr<E>() + (index * p.H + head) * p.N * p.N;
}

// The kept states of a task lie together.
template <class E>
E* kept_of(const Wkv7Problem& p, const at::Tensor& kept, const Task& task) {
  if (!kept.defined()) return nullptr;
  const std::int64_t own = wkv7_kept_states(task.sequence.length);
  return kept.mutable_data_ptr<E>() + (task.sequence.kept * p.H + task.head * own) * p.N * p.N;
}

template <class E>
Wkv7Inputs<E> inputs_of(const Wkv7Problem& p, const Wkv7Tensors& in, const at::Tensor& initial_state,
                        const Task& task) {
  const auto at = [&](std::size_t i) { return in[i].const_data_ptr<E>() + task.offset; };
  return {at(0),
          at(1),
          at(2),
          at(3),
          at(4),
          at(5),
          state_of<E>(p, initial_state, task.sequence.initial, task.head)};
}

}  // namespace

Wkv7Forward wkv7_forward_on_cpu(const Wkv7Problem& p, const Wkv7Tensors& in, const at::Tensor& initial_state,
                                bool differentiable) {
  const at::TensorOptions options = in[0].options();
  const Wkv7Sequence& last = p.sequences.back();
  const std::int64_t kept_states = (last.kept + wkv7_kept_states(last.length)) * p.H;
  const Wkv7Forward out{at::empty(in[0].sizes(), options), at::empty({p.states, p.H, p.N, p.N}, options),
                        differentiable ? at::empty({kept_states, p.N, p.N}, options) : at::Tensor()};
  // With fewer tasks than threads the value channels, which never meet, are shared out too.
  const std::int64_t parts = tasks(p) < at::get_num_threads() ? p.N / 32 : 1, channels = p.N / parts;
  AT_DISPATCH_FLOATING_TYPES(in[0].scalar_type(), "wkv7", [&] {
    at::parallel_for(0, tasks(p) * parts, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Task task(p, i / parts);
        const std::int64_t first = i % parts * channels;
        wkv7_forward_cpu(inputs_of<scalar_t>(p, in, initial_state, task), sizes(p, task), first,
                         first + channels, out.y.mutable_data_ptr<scalar_t>() + task.offset,
                         state_of<scalar_t>(p, out.final_state, task.sequence.final, task.head),
                         kept_of<scalar_t>(p, out.kept, task));
      }
    });
  });
  return out;
}

Wkv7Backward wkv7_backward_on_cpu(const Wkv7Problem& p, const Wkv7Tensors& in,
                                  const at::Tensor& initial_state, const at::Tensor& kept,
                                  const at::Tensor& grad_y, const at::Tensor& grad_final_state) {
  Wkv7Backward out;
  for (at::Tensor& gradient : out.inputs) gradient = at::empty(in[0].sizes(), in[0].options());
  // An initial state that a document's start drops has no gradient.
  if (initial_state.defined()) out.initial_state = at::zeros(initial_state.sizes(), initial_state.options());
  AT_DISPATCH_FLOATING_TYPES(in[0].scalar_type(), "wkv7_backward", [&] {
    at::parallel_for(0, tasks(p), 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const Task task(p, i);
        const auto at = [&](std::size_t n) {
          return out.inputs[n].mutable_data_ptr<scalar_t>() + task.offset;
        };
        const Wkv7Sequence& s = task.sequence;
        wkv7_backward_cpu(
            inputs_of<scalar_t>(p, in, initial_state, task), sizes(p, task), kept_of<scalar_t>(p, kept, task),
            grad_y.defined() ? grad_y.const_data_ptr<scalar_t>() + task.offset : nullptr,
            state_of<scalar_t>(p, grad_final_state, s.final, task.head),
            Wkv7GradientOutputs<scalar_t>{at(0), at(1), at(2), at(3), at(4), at(5),
                                          state_of<scalar_t>(p, out.initial_state, s.initial, task.head)});
      }
    });
  });
  return out;
}

}  // namespace wuneng::kernels
