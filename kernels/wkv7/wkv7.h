// WKV-7: the RWKV-7 generalised delta rule (arXiv 2503.14456, section 4.1), per batch row b and head h, with
// the state S [N_v, N_k] (row = value channel, column = key channel):
//
//   u_t = S_{t-1} a_t
//   S_t = S_{t-1} diag(exp(log_decay_t)) + u_t b_t^T + v_t k_t^T
//   y_t = S_t r_t
//
// RWKV-7 sets a = -kappa, b = kappa * alpha (removal key and in-context rate) and k = the replacement key.
#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace wuneng::kernels {

struct Wkv7Output {
  at::Tensor y;            // [B, T, H, N], dtype of the inputs
  at::Tensor final_state;  // [B, H, N, N], fp32 (float64 for float64 inputs)
};

// Differentiable in r, log_decay, k, v, a, b and initial_state, through y and through final_state.
//
//   r, log_decay, k, v, a, b  [B, T, H, N], contiguous, one dtype (float32 or float64) and device; N = 64 or
//   128; T >= 1.
//                             log_decay in [-e^{-1/2}, 0], as RWKV-7's decay gives it.
//   initial_state             [B, H, N, N] fp32 (float64 for float64 inputs), the state before each row's
//   first token;
//                             undefined means zero.
//   document_starts           int64 on the CPU [D], strictly increasing positions b*T + t at which a document
//   begins: the
//                             state is zero before such a token. A row's first token continues initial_state
//                             unless it is listed. Undefined or empty means none.
//
// Throws Error with the values when a shape, dtype, stride, device or position is wrong. Results do not
// depend on the number of threads, bit for bit.
Wkv7Output wkv7(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial_state = {},
                const at::Tensor& document_starts = {});

}  // namespace wuneng::kernels
