// Launchers of state_head.h for both devices: plain pointers, no tensors. All tensors are contiguous, those
// of tokens [tokens, H, N], parameters [H, N]; on CUDA they are 16-byte aligned and N is 64 or 128.
#pragma once

#include <cstdint>

namespace wuneng::device {
struct bf16;
}

namespace wuneng::kernels {

struct StateHeadSizes {
  std::int64_t tokens, H, N;
};

template <class T>
struct Preparation {
  const T *decay_logit, *rate_logit, *k;
  const T *removal, *replacement;
  T *log_decay, *new_k, *a, *b;  // unused by the backward pass
};

template <class T>
struct PreparationGradient {
  const T *d_log_decay, *d_new_k, *d_a, *d_b;  // on CUDA any may be null: zero
  T *d_decay_logit, *d_rate_logit, *d_k;
};
constexpr int preparation_sums = 2;  // gradients of parameters: removal, replacement

template <class T>
struct Epilogue {
  const T *y, *r, *k, *v, *gate;
  const T *bonus, *weight, *bias;
  double eps;
};

template <class T>
struct EpilogueGradient {
  const T* d_out;
  T *d_y, *d_r, *d_k, *d_v, *d_gate;
};
constexpr int epilogue_sums = 3;  // gradients of parameters: bonus, weight, bias

template <class T>
struct ValueMix {
  const T *v, *first, *logit;
};
template <class T>
struct ValueMixGradient {
  const T* d_out;
  T *d_v, *d_first, *d_logit;
};

// ------------------------------------------------------------------------- CPU ----
// T is float or double. Work on the tokens [first, last); the backward passes add their part of the
// parameters' gradients to sums [2 or 3, H, N].

void prepare_rows(const Preparation<float>& p, const StateHeadSizes& s, std::int64_t first,
                  std::int64_t last);
void prepare_rows(const Preparation<double>& p, const StateHeadSizes& s, std::int64_t first,
                  std::int64_t last);
void prepare_rows_backward(const Preparation<float>& p, const PreparationGradient<float>& g,
                           const StateHeadSizes& s, std::int64_t first, std::int64_t last, float* sums);
void prepare_rows_backward(const Preparation<double>& p, const PreparationGradient<double>& g,
                           const StateHeadSizes& s, std::int64_t first, std::int64_t last, double* sums);
void finish_rows(const Epilogue<float>& e, const StateHeadSizes& s, std::int64_t first, std::int64_t last,
                 float* out);
void finish_rows(const Epilogue<double>& e, const StateHeadSizes& s, std::int64_t first, std::int64_t last,
                 double* out);
void finish_rows_backward(const Epilogue<float>& e, const EpilogueGradient<float>& g, const StateHeadSizes& s,
                          std::int64_t first, std::int64_t last, float* sums);
void finish_rows_backward(const Epilogue<double>& e, const EpilogueGradient<double>& g,
                          const StateHeadSizes& s, std::int64_t first, std::int64_t last, double* sums);
// Elements [first, last).
void mix_elements(const ValueMix<float>& m, std::int64_t first, std::int64_t last, float* out);
void mix_elements(const ValueMix<double>& m, std::int64_t first, std::int64_t last, double* out);
void mix_elements_backward(const ValueMix<float>& m, const ValueMixGradient<float>& g, std::int64_t first,
                           std::int64_t last);
void mix_elements_backward(const ValueMix<double>& m, const ValueMixGradient<double>& g, std::int64_t first,
                           std::int64_t last);

// ------------------------------------------------------------------------ CUDA ----
// Element is float or device::bf16. The backward passes leave the gradients of the parameters as one partial
// sum per slice of the tokens, partial [slices, 2 or 3, H, N], for device/slice_sum.h to add. Every launcher
// returns 0 or the cudaError_t of a launch that failed.

constexpr std::int64_t state_head_slice = 64;  // tokens
constexpr std::int64_t state_head_slices(std::int64_t tokens) {
  return (tokens + state_head_slice - 1) / state_head_slice;
}

template <class Element>
int prepare_cuda(const Preparation<Element>& p, const StateHeadSizes& s, void* stream);
template <class Element>
int prepare_backward_cuda(const Preparation<Element>& p, const PreparationGradient<Element>& g,
                          const StateHeadSizes& s, float* partial, void* stream);
template <class Element>
int finish_cuda(const Epilogue<Element>& e, const StateHeadSizes& s, Element* out, void* stream);
template <class Element>
int finish_backward_cuda(const Epilogue<Element>& e, const EpilogueGradient<Element>& g,
                         const StateHeadSizes& s, float* partial, void* stream);
// `count` elements, a multiple of 8.
template <class Element>
int mix_values_cuda(const ValueMix<Element>& m, std::int64_t count, Element* out, void* stream);
template <class Element>
int mix_values_backward_cuda(const ValueMix<Element>& m, const ValueMixGradient<Element>& g,
                             std::int64_t count, void* stream);

}  // namespace wuneng::kernels
