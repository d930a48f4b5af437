// The recurrence of wkv7.h written as it stands in the paper, token by token in double precision: the
// yardstick of the tests.
#pragma once

#include "kernels/wkv7/wkv7.h"

namespace wuneng::kernels {

// Same contract as wkv7(), any float dtype in, float64 out; any N; no autograd.
Wkv7Output wkv7_reference(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                          const at::Tensor& v, const at::Tensor& a, const at::Tensor& b,
                          const at::Tensor& initial_state = {}, const at::Tensor& document_starts = {});

struct Wkv7Gradients {
  at::Tensor r, log_decay, k, v, a, b;  // [B, T, H, N] float64
  at::Tensor initial_state;             // [B, H, N, N] float64
};

// Back-propagation through time, written independently of the fast backward; checked against finite
// differences. grad_y or grad_final_state may be undefined (zero).
Wkv7Gradients wkv7_reference_backward(const at::Tensor& grad_y, const at::Tensor& grad_final_state,
                                      const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                                      const at::Tensor& v, const at::Tensor& a, const at::Tensor& b,
                                      const at::Tensor& initial_state = {},
                                      const at::Tensor& document_starts = {});

}  // namespace wuneng::kernels
