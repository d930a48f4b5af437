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

namespace wuneng::kernels {

// Whose states initial_state and final_state hold: each batch row's, or each document's. Documents are
// counted through the batch, in order; the tokens of a row before its first document start count as one.
enum class StatesPer { row, document };

struct Wkv7Output {
  at::Tensor y;            // [B, T, H, N], dtype of the inputs
  at::Tensor final_state;  // [B or documents, H, N, N], fp32 (float64 for float64 inputs)
};

// Differentiable in r, log_decay, k, v, a, b and initial_state, through y and through final_state.
//
//   r, log_decay, k, v, a, b  [B, T, H, N], contiguous, one dtype and device; N = 64 or 128; T >= 1. float32
//   and
//                             bfloat16; float64 on the CPU. On CUDA 16-byte aligned.
//                             log_decay in [-e^{-1/2}, 0], as RWKV-7's decay gives it: the CUDA kernels'
//                             range of exponents is laid out for that.
//   initial_state             [B or documents, H, N, N] fp32 (float64 for float64 inputs), the state before
//   the
//                             first token of each row or document; undefined means zero.
//   document_starts           int64 on the CPU [D], strictly increasing positions b*T + t at which a document
//                             begins. Undefined or empty means none.
//   states                    row: the state is zero before a document's first token; a row's first token
//   goes on
//                             from initial_state unless it is listed. document: each document has its own
//                             initial and final state.
//
// Products: in fp32 (float64) for float32 (float64) inputs; on bf16 tensor cores with fp32 sums and states
// for bfloat16 inputs on CUDA; bfloat16 on the CPU is computed in fp32.
//
// Throws Error with the values when a shape, dtype, stride, device or position is wrong. Results do not
// depend on the number of threads or on the device's schedule, bit for bit.
Wkv7Output wkv7(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& a, const at::Tensor& b, const at::Tensor& initial_state = {},
                const at::Tensor& document_starts = {}, StatesPer states = StatesPer::row);

}  // namespace wuneng::kernels
