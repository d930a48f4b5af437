// Between the checked operator (wkv7.cpp) and the launchers: tensors in, tensors out, one pair of functions
// per device. Inside kernels/wkv7 only.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <vector>

#include "kernels/wkv7/sequences.h"

namespace wuneng::kernels {

struct Wkv7Problem {
  std::int64_t B, T, H, N;
  std::vector<Wkv7Sequence> sequences;
  std::int64_t states;  // number of initial and of final states: rows or documents
  bool documents;       // some sequence is not a whole row with its own states

  Wkv7Problem(const at::Tensor& r, const at::Tensor& document_starts, bool states_per_document);
};

// r, log_decay, k, v, a, b.
using Wkv7Tensors = std::array<at::Tensor, 6>;

struct Wkv7Forward {
  at::Tensor y, final_state;
  at::Tensor kept;  // the states that the backward pass starts from; undefined when not differentiable
};

struct Wkv7Backward {
  Wkv7Tensors inputs;
  at::Tensor initial_state;  // undefined when there was none
};

// initial_state, grad_y and grad_final_state may be undefined (zero); all are contiguous.
Wkv7Forward wkv7_forward_on_cpu(const Wkv7Problem& p, const Wkv7Tensors& in, const at::Tensor& initial_state,
                                bool differentiable);
Wkv7Backward wkv7_backward_on_cpu(const Wkv7Problem& p, const Wkv7Tensors& in,
                                  const at::Tensor& initial_state, const at::Tensor& kept,
                                  const at::Tensor& grad_y, const at::Tensor& grad_final_state);

Wkv7Forward wkv7_forward_on_cuda(const Wkv7Problem& p, const Wkv7Tensors& in, const at::Tensor& initial_state,
                                 bool differentiable);
Wkv7Backward wkv7_backward_on_cuda(const Wkv7Problem& p, const Wkv7Tensors& in,
                                   const at::Tensor& initial_state, const at::Tensor& kept,
                                   const at::Tensor& grad_y, const at::Tensor& grad_final_state);

}  // namespace wuneng::kernels
