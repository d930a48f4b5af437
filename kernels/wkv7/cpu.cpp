// The recurrence, vectorised. Forward: lanes are value channels and the state is kept transposed, [N_k, N_v],
// so that S a and S r need no sum over lanes. Backward: lanes are key channels, where five of the seven sums
// are over rows.
#include "kernels/wkv7/cpu.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/vector_math.h"
#include "kernels/wkv7/vector.h"

namespace wuneng::kernels {
namespace {

// ------------------------------------------------------------------- forward ----

template <class T, int N>
WUNENG_INLINE void load_transposed(const T* state, std::int64_t first, int channels,
                                   T* s) {  // rows of [N_v, N_k] -> [N_k, channels]
  for (int v = 0; v < channels; ++v)
    for (int k = 0; k < N; ++k) s[k * channels + v] = state ? state[(first + v) * N + k] : T(0);
}

template <class T, int N>
WUNENG_INLINE void store_transposed(const T* s, std::int64_t first, int channels, T* state) {
  for (int v = 0; v < channels; ++v)
    for (int k = 0; k < N; ++k) state[(first + v) * N + k] = s[k * channels + v];
}

// Value channels [first, first + lanes * registers) of one row and head, over all tokens. One sweep of the
// state per token: while it is updated, its product with this token's r (the output) and with the next
// token's a (the next u) are summed.
template <class T, int N, int lanes, int registers>
WUNENG_INLINE void forward_channels(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first, T* y,
                                    T* final_state, T* checkpoints) {
  using V = Vector<T, lanes>;
  constexpr int channels = lanes * registers;
  const std::int64_t stride = sizes.H * N;
  alignas(64) T s[N * channels];  // [N_k, channels]
  alignas(64) T decay[N];
  load_transposed<T, N>(in.initial_state, first, channels, s);

  V u[registers];
  for (int i = 0; i < registers; ++i) {
    u[i] = V{};
    for (int k = 0; k < N; ++k) u[i] += load<lanes>(s + k * channels + i * lanes) * in.a[k];
  }
  for (std::int64_t t = 0; t < sizes.T; ++t) {
    const std::int64_t at = t * stride;
    if (checkpoints && t % wkv7_checkpoint_tokens == 0)
      store_transposed<T, N>(s, first, channels, checkpoints + t / wkv7_checkpoint_tokens * N * N);
    if (in.starts && in.starts[t]) {
      std::fill(s, s + N * channels, T(0));
      for (V& x : u) x = V{};
    }
    const T *r = in.r + at, *key = in.k + at, *b = in.b + at;
    const T* next_a =
        in.a + (t + 1 < sizes.T ? at + stride : at);  // after the last token the product is not used
    for (int k = 0; k < N; ++k) decay[k] = exponential(in.log_decay[at + k]);
    V value[registers], out[registers] = {}, next_u[registers] = {};
    for (int i = 0; i < registers; ++i) value[i] = load<lanes>(in.v + at + first + i * lanes);
    for (int k = 0; k < N; ++k)
      for (int i = 0; i < registers; ++i) {
        T* cell = s + k * channels + i * lanes;
        const V x = load<lanes>(cell) * decay[k] + u[i] * b[k] + value[i] * key[k];
        store<lanes>(cell, x);
        out[i] += x * r[k];
        next_u[i] += x * next_a[k];
      }
    for (int i = 0; i < registers; ++i) {
      store<lanes>(y + at + first + i * lanes, out[i]);
      u[i] = next_u[i];
    }
  }
  store_transposed<T, N>(s, first, channels, final_state);
}

template <class T, int lanes, int registers>
WUNENG_INLINE void forward_all(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first,
                               std::int64_t last, T* y, T* final_state, T* checkpoints) {
  for (; first < last; first += lanes * registers)
    if (sizes.N == 64)
      forward_channels<T, 64, lanes, registers>(in, sizes, first, y, final_state, checkpoints);
    else
      forward_channels<T, 128, lanes, registers>(in, sizes, first, y, final_state, checkpoints);
}

// ------------------------------------------------------------------ backward ----

constexpr std::int64_t block_tokens =
    16;  // states kept at once while a block is differentiated: 16 of 16 KiB fit the second-level cache

// One token of the recurrence on the state [N_v, N_k] in place, lanes over k; `u` [N_v] is S a of the state
// before.
template <class T, int N, int lanes>
WUNENG_INLINE void advance(const Wkv7Inputs<T>& in, std::int64_t at, const T* decay, const T* before,
                           T* after, T* u) {
  using V = Vector<T, lanes>;
  constexpr int parts = N / lanes;
  V a[parts], b[parts], key[parts], w[parts];
  for (int p = 0; p < parts; ++p) {
    a[p] = load<lanes>(in.a + at + p * lanes);
    b[p] = load<lanes>(in.b + at + p * lanes);
    key[p] = load<lanes>(in.k + at + p * lanes);
    w[p] = load<lanes>(decay + p * lanes);
  }
  for (int v = 0; v < N; ++v) {
    V row[parts], product = {};
    for (int p = 0; p < parts; ++p) {
      row[p] = load<lanes>(before + v * N + p * lanes);
      product += row[p] * a[p];
    }
    u[v] = lanes_sum<T, lanes>(product);
    const T value = in.v[at + v];
    for (int p = 0; p < parts; ++p)
      store<lanes>(after + v * N + p * lanes, row[p] * w[p] + b[p] * u[v] + key[p] * value);
  }
}

// Gradients of one token. `ds` [N_v, N_k] comes as the gradient of the state after the token and leaves as
// that of the state before it.
template <class T, int N, int lanes>
WUNENG_INLINE void differentiate_token(const Wkv7Inputs<T>& in, std::int64_t at, const T* decay,
                                       const T* before, const T* after, const T* u, const T* grad_y, T* ds,
                                       const Wkv7GradientOutputs<T>& out) {
  using V = Vector<T, lanes>;
  constexpr int parts = N / lanes;
  alignas(64) T du[N];
  // First the sums over k, which the rest needs: du = dS b, dv = dS k.
  for (int v = 0; v < N; ++v) {
    V sum_u = {}, sum_v = {};
    const T dy = grad_y ? grad_y[at + v] : T(0);
    for (int p = 0; p < parts; ++p) {
      T* cell = ds + v * N + p * lanes;
      const V x = load<lanes>(cell) + load<lanes>(in.r + at + p * lanes) * dy;
      store<lanes>(cell, x);
      sum_u += x * load<lanes>(in.b + at + p * lanes);
      sum_v += x * load<lanes>(in.k + at + p * lanes);
    }
    du[v] = lanes_sum<T, lanes>(sum_u);
    out.v[at + v] = lanes_sum<T, lanes>(sum_v);
  }
  // Then, per stretch of key channels, the sums over v, and dS before the token.
  for (int p = 0; p < parts; ++p) {
    const int k = p * lanes;
    const V w = load<lanes>(decay + k), a = load<lanes>(in.a + at + k);
    V dr = {}, dw = {}, dk = {}, da = {}, db = {};
    for (int v = 0; v < N; ++v) {
      const V x = load<lanes>(ds + v * N + k), old = load<lanes>(before + v * N + k);
      if (grad_y) dr += load<lanes>(after + v * N + k) * grad_y[at + v];
      dw += x * old;
      dk += x * in.v[at + v];
      db += x * u[v];
      da += old * du[v];
      store<lanes>(ds + v * N + k, x * w + a * du[v]);
    }
    store<lanes>(out.r + at + k, dr);
    store<lanes>(out.log_decay + at + k, dw * w);
    store<lanes>(out.k + at + k, dk);
    store<lanes>(out.b + at + k, db);
    store<lanes>(out.a + at + k, da);
  }
}

// What a block needs beside the inputs; one per call.
template <class T>
struct Scratch {
  explicit Scratch(std::int64_t N)
      : zero(N * N),
        marks(wkv7_checkpoint_tokens / block_tokens * N * N),
        states(block_tokens * N * N),
        u(block_tokens * N),
        decay(block_tokens * N),
        ds(N * N) {}
  std::vector<T> zero, marks, states, u, decay, ds;
};

// The state before token t, given the one that precedes it in time: zero where a document starts.
template <class T>
WUNENG_INLINE const T* entering(const Wkv7Inputs<T>& in, std::int64_t t, const T* preceding,
                                const Scratch<T>& scratch) {
  return in.starts && in.starts[t] ? scratch.zero.data() : preceding;
}

template <class T, int N, int lanes>
WUNENG_INLINE void differentiate_block(const Wkv7Inputs<T>& in, std::int64_t stride, std::int64_t begin,
                                       std::int64_t end, const T* entry, const T* grad_y, Scratch<T>& scratch,
                                       const Wkv7GradientOutputs<T>& out) {
  const auto before = [&](std::int64_t t) {
    return entering(in, t, t == begin ? entry : scratch.states.data() + (t - begin - 1) * N * N, scratch);
  };
  for (std::int64_t t = begin; t < end; ++t) {
    T* decay = scratch.decay.data() + (t - begin) * N;
    for (int k = 0; k < N; ++k) decay[k] = exponential(in.log_decay[t * stride + k]);
    advance<T, N, lanes>(in, t * stride, decay, before(t), scratch.states.data() + (t - begin) * N * N,
                         scratch.u.data() + (t - begin) * N);
  }
  for (std::int64_t t = end - 1; t >= begin; --t) {
    differentiate_token<T, N, lanes>(in, t * stride, scratch.decay.data() + (t - begin) * N, before(t),
                                     scratch.states.data() + (t - begin) * N * N,
                                     scratch.u.data() + (t - begin) * N, grad_y, scratch.ds.data(), out);
    if (in.starts && in.starts[t]) std::fill(scratch.ds.begin(), scratch.ds.end(), T(0));
  }
}

// From the last checkpoint to the first: the states at every 16th token are made again from the checkpoint,
// then each block's from its mark.
template <class T, int N, int lanes>
WUNENG_INLINE void backward_all(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* checkpoints,
                                const T* grad_y, const T* grad_final_state,
                                const Wkv7GradientOutputs<T>& out) {
  const std::int64_t stride = sizes.H * N;
  Scratch<T> scratch(N);
  if (grad_final_state) std::memcpy(scratch.ds.data(), grad_final_state, N * N * sizeof(T));
  for (std::int64_t c = sizes.checkpoints() - 1; c >= 0; --c) {
    const std::int64_t begin = c * wkv7_checkpoint_tokens,
                       end = std::min(sizes.T, begin + wkv7_checkpoint_tokens);
    std::memcpy(scratch.marks.data(), checkpoints + c * N * N, N * N * sizeof(T));
    for (std::int64_t t = begin; t + block_tokens < end; t += block_tokens) {
      const T* mark = scratch.marks.data() + (t - begin) / block_tokens * N * N;
      T* next = scratch.marks.data() + ((t - begin) / block_tokens + 1) * N * N;
      for (std::int64_t i = t; i < t + block_tokens; ++i) {
        T* decay = scratch.decay.data();
        for (int k = 0; k < N; ++k) decay[k] = exponential(in.log_decay[i * stride + k]);
        advance<T, N, lanes>(in, i * stride, decay, entering(in, i, i == t ? mark : next, scratch), next,
                             scratch.u.data());
      }
    }
    for (std::int64_t t = begin + (end - begin - 1) / block_tokens * block_tokens; t >= begin;
         t -= block_tokens)
      differentiate_block<T, N, lanes>(in, stride, t, std::min(end, t + block_tokens),
                                       scratch.marks.data() + (t - begin) / block_tokens * N * N, grad_y,
                                       scratch, out);
  }
  if (out.initial_state) std::memcpy(out.initial_state, scratch.ds.data(), N * N * sizeof(T));
}

template <class T, int lanes>
WUNENG_INLINE void backward_sized(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* checkpoints,
                                  const T* grad_y, const T* grad_final_state,
                                  const Wkv7GradientOutputs<T>& out) {
  if (sizes.N == 64)
    backward_all<T, 64, lanes>(in, sizes, checkpoints, grad_y, grad_final_state, out);
  else
    backward_all<T, 128, lanes>(in, sizes, checkpoints, grad_y, grad_final_state, out);
}

// -------------------------------------------------------- one copy per machine ----

// Lanes fill the vector registers of each instruction set: 512, 256 and 128 bits. Two or four registers of
// value channels are worked on at once.
#define WUNENG_WKV7(name, attributes, bytes)                                                             \
  template <class T>                                                                                     \
  attributes void forward_##name(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first,    \
                                 std::int64_t last, T* y, T* final, T* checkpoints) {                    \
    constexpr int lanes = bytes / sizeof(T);                                                             \
    if ((last - first) % (4 * lanes) == 0 && bytes == 64)                                                \
      forward_all<T, lanes, 4>(in, sizes, first, last, y, final, checkpoints);                           \
    else                                                                                                 \
      forward_all<T, lanes, 2>(in, sizes, first, last, y, final, checkpoints);                           \
  }                                                                                                      \
  template <class T>                                                                                     \
  attributes void backward_##name(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* checkpoints, \
                                  const T* grad_y, const T* grad_final_state,                            \
                                  const Wkv7GradientOutputs<T>& out) {                                   \
    backward_sized<T, bytes / sizeof(T)>(in, sizes, checkpoints, grad_y, grad_final_state, out);         \
  }

WUNENG_WKV7(portable, , 16)
#if defined(__x86_64__)
WUNENG_WKV7(avx2, __attribute__((target("arch=x86-64-v3"))), 32)
WUNENG_WKV7(avx512, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))), 64)
#endif
#undef WUNENG_WKV7

template <class T>
void forward(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first, std::int64_t last, T* y,
             T* final_state, T* checkpoints) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4"))
    return forward_avx512(in, sizes, first, last, y, final_state, checkpoints);
  if (__builtin_cpu_supports("x86-64-v3"))
    return forward_avx2(in, sizes, first, last, y, final_state, checkpoints);
#endif
  forward_portable(in, sizes, first, last, y, final_state, checkpoints);
}

template <class T>
void backward(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, const T* checkpoints, const T* grad_y,
              const T* grad_final_state, const Wkv7GradientOutputs<T>& out) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4"))
    return backward_avx512(in, sizes, checkpoints, grad_y, grad_final_state, out);
  if (__builtin_cpu_supports("x86-64-v3"))
    return backward_avx2(in, sizes, checkpoints, grad_y, grad_final_state, out);
#endif
  backward_portable(in, sizes, checkpoints, grad_y, grad_final_state, out);
}

}  // namespace

void wkv7_forward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, float* y, float* final_state, float* checkpoints) {
  forward(in, sizes, first, last, y, final_state, checkpoints);
}
void wkv7_forward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, double* y, double* final_state, double* checkpoints) {
  forward(in, sizes, first, last, y, final_state, checkpoints);
}
void wkv7_backward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, const float* checkpoints,
                       const float* grad_y, const float* grad_final_state,
                       const Wkv7GradientOutputs<float>& out) {
  backward(in, sizes, checkpoints, grad_y, grad_final_state, out);
}
void wkv7_backward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, const double* checkpoints,
                       const double* grad_y, const double* grad_final_state,
                       const Wkv7GradientOutputs<double>& out) {
  backward(in, sizes, checkpoints, grad_y, grad_final_state, out);
}

}  // namespace wuneng::kernels
