// Launchers of WKV-7 on the CPU: plain pointers, no tensors. One call works on one batch row and head; calls
// are independent.
#pragma once

#include <cstdint>

namespace wuneng::kernels {

// Tokens between the states that the forward pass keeps for the backward pass.
constexpr std::int64_t wkv7_checkpoint_tokens = 64;

struct Wkv7Sizes {
  std::int64_t T, H, N;

  std::int64_t checkpoints() const { return (T + wkv7_checkpoint_tokens - 1) / wkv7_checkpoint_tokens; }
};

// Pointers to the first token of one row and head; token t lies H * N elements further per t. States are
// [N_v, N_k].
template <class T>
struct Wkv7Inputs {
  const T *r, *log_decay, *k, *v, *a, *b;
  const T* initial_state;      // null: zero
  const std::uint8_t* starts;  // [T], 1 where a document starts; null: nowhere
};

// Writes y (strided as the inputs) for the value channels [first, last), which must be a multiple of 32
// apart; the final state, and unless null the state before every 64th token, rows [first, last) of each.
// `last - first` changes no bit of any channel.
void wkv7_forward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, float* y, float* final_state, float* checkpoints);
void wkv7_forward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, double* y, double* final_state, double* checkpoints);

template <class T>
struct Wkv7GradientOutputs {
  T *r, *log_decay, *k, *v, *a, *b;  // strided as the inputs
  T* initial_state;                  // [N_v, N_k], null when not wanted
};

// grad_y (strided as the inputs) and grad_final_state may be null (zero). `checkpoints` as the forward pass
// wrote them.
void wkv7_backward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, const float* checkpoints,
                       const float* grad_y, const float* grad_final_state,
                       const Wkv7GradientOutputs<float>& out);
void wkv7_backward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, const double* checkpoints,
                       const double* grad_y, const double* grad_final_state,
                       const Wkv7GradientOutputs<double>& out);

}  // namespace wuneng::kernels
