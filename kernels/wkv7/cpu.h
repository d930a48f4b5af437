// Launchers of WKV-7 on the CPU: plain pointers, no tensors. One call works on one sequence (sequences.h) and
// head; calls are independent. The operator and its equations: wkv7.h.
#pragma once

#include <cstdint>

#include "kernels/wkv7/sequences.h"

namespace wuneng::kernels {

struct Wkv7Sizes {
  std::int64_t T;     // tokens of the sequence
  std::int64_t H, N;  // token t lies H * N elements further per t; N = 64 or 128
};

// Pointers to the channels of the sequence's first token. States are [N_v, N_k].
template <class T>
struct Wkv7Inputs {
  const T *r, *log_decay, *k, *v, *a, *b;
  const T* initial_state;  // null: zero
};

// Writes y (strided as the inputs) for the value channels [first, last), which must be a multiple of 32
// apart; and, each unless null, the final state [N, N] and the kept states [wkv7_kept_states(T), N, N], those
// before tokens 64, 128, ...: rows [first, last) of each. `last - first` changes no bit of any channel.
void wkv7_forward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, float* y, float* final_state, float* kept_states);
void wkv7_forward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, double* y, double* final_state, double* kept_states);

template <class T>
struct Wkv7GradientOutputs {
  T *r, *log_decay, *k, *v, *a, *b;  // strided as the inputs
  T* initial_state;                  // [N_v, N_k], null when not wanted
};

// grad_y (strided as the inputs) and grad_final_state may be null (zero). `kept_states` as the forward pass
// wrote them.
void wkv7_backward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, const float* kept_states,
                       const float* grad_y, const float* grad_final_state,
                       const Wkv7GradientOutputs<float>& out);
void wkv7_backward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, const double* kept_states,
                       const double* grad_y, const double* grad_final_state,
                       const Wkv7GradientOutputs<double>& out);

}  // namespace wuneng::kernels
