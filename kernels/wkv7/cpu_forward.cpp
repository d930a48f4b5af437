// The forward pass on the CPU: the recurrence, vectorised. Lanes are value channels and the state is kept
// transposed, [N_k, N_v], so that S a and S r need no sum over lanes. In float32 the chunked form needs as
// many multiplications and moves more memory.
#include <algorithm>

#include "kernels/wkv7/cpu.h"
#include "kernels/wkv7/vector.h"

namespace wuneng::kernels {
namespace {

constexpr int block_tokens =
    16;  // tokens that each group of value channels takes in turn: their inputs stay cached

// Rows [first, first + channels) of a state [N_v, N_k] (null: zero) as [N_k, channels].
template <class T, int N, int channels>
WUNENG_INLINE void load_transposed(const T* state, std::int64_t first, T* s) {
  for (int v = 0; v < channels; ++v)
    for (int k = 0; k < N; ++k) s[k * channels + v] = state ? state[(first + v) * N + k] : T(0);
}

template <class T, int N, int channels>
WUNENG_INLINE void store_transposed(const T* s, std::int64_t first, T* state) {
  for (int v = 0; v < channels; ++v)
    for (int k = 0; k < N; ++k) state[(first + v) * N + k] = s[k * channels + v];
}

// A group of value channels: its state [N_k, channels] and that state's product with the next token's a.
template <class T, int N, int lanes, int registers>
struct Group {
  static constexpr int channels = lanes * registers;
  alignas(64) T state[N * channels];
  alignas(64) T u[channels];
};

// Tokens [begin, end) for one group. One sweep of the state per token: while it is updated, its product with
// this token's r (the output) and with the next token's a (the next u) are summed. `decay` [end - begin, N].
template <class T, int N, int lanes, int registers>
WUNENG_INLINE void forward_tokens(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first,
                                  std::int64_t begin, std::int64_t end, const T* decay,
                                  Group<T, N, lanes, registers>& group, T* y) {
  using V = Vector<T, lanes>;
  constexpr int channels = lanes * registers;
  const std::int64_t stride = sizes.H * N;
  V u[registers];
  for (int i = 0; i < registers; ++i) u[i] = load<lanes>(group.u + i * lanes);
  for (std::int64_t t = begin; t < end; ++t, decay += N) {
    const std::int64_t at = t * stride;
    const T *r = in.r + at, *key = in.k + at, *b = in.b + at;
    for (const T* x : {in.r, in.log_decay, in.k, in.v, in.a, in.b})  // of the next block, a share per group
      for (int k = 0; k < channels; k += 64 / sizeof(T))
        __builtin_prefetch(x + at + block_tokens * stride + first + k);
    const T* next_a = in.a + (t + 1 < sizes.T ? at + stride : at);  // not used after the last token
    V value[registers], out[registers] = {}, next_u[registers] = {};
    for (int i = 0; i < registers; ++i) value[i] = load<lanes>(in.v + at + first + i * lanes);
    for (int k = 0; k < N; ++k)
      for (int i = 0; i < registers; ++i) {
        T* cell = group.state + k * channels + i * lanes;
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
  for (int i = 0; i < registers; ++i) store<lanes>(group.u + i * lanes, u[i]);
}

// Value channels [first, last) over all tokens, block after block.
template <class T, int N, int lanes, int registers>
WUNENG_INLINE void forward_channels(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first,
                                    std::int64_t last, T* y, T* final_state, T* kept_states) {
  constexpr int channels = lanes * registers;
  Group<T, N, lanes, registers> groups[N / channels];
  const std::int64_t count = (last - first) / channels;
  for (std::int64_t g = 0; g < count; ++g) {
    load_transposed<T, N, channels>(in.initial_state, first + g * channels, groups[g].state);
    for (int v = 0; v < channels; v += lanes) {
      Vector<T, lanes> u = {};
      for (int k = 0; k < N; ++k) u += load<lanes>(groups[g].state + k * channels + v) * in.a[k];
      store<lanes>(groups[g].u + v, u);
    }
  }
  alignas(64) T decay[block_tokens * N];
  for (std::int64_t begin = 0; begin < sizes.T; begin += block_tokens) {
    const std::int64_t end = std::min(sizes.T, begin + block_tokens);
    for (std::int64_t t = begin; t < end; ++t)
      for (int k = 0; k < N; k += lanes)
        store<lanes>(decay + (t - begin) * N + k,
                     exponential_lanes<lanes>(load<lanes>(in.log_decay + t * sizes.H * N + k)));
    for (std::int64_t g = 0; g < count; ++g) {
      if (kept_states && begin > 0 && begin % wkv7_kept_tokens == 0)
        store_transposed<T, N, channels>(groups[g].state, first + g * channels,
                                         kept_states + (begin / wkv7_kept_tokens - 1) * N * N);
      forward_tokens(in, sizes, first + g * channels, begin, end, decay, groups[g], y);
    }
  }
  for (std::int64_t g = 0; final_state && g < count; ++g)
    store_transposed<T, N, channels>(groups[g].state, first + g * channels, final_state);
}

template <class T, int lanes, int registers>
WUNENG_INLINE void forward_sized(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first,
                                 std::int64_t last, T* y, T* final_state, T* kept_states) {
  if (sizes.N == 64)
    forward_channels<T, 64, lanes, registers>(in, sizes, first, last, y, final_state, kept_states);
  else
    forward_channels<T, 128, lanes, registers>(in, sizes, first, last, y, final_state, kept_states);
}

// Lanes fill the vector registers of each instruction set: 512, 256 and 128 bits. Groups of two of them; of
// four where there are 32 registers.
#define WUNENG_WKV7_FORWARD(name, attributes, bytes)                                                  \
  template <class T>                                                                                  \
  attributes void forward_##name(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first, \
                                 std::int64_t last, T* y, T* final_state, T* kept_states) {           \
    constexpr int lanes = bytes / sizeof(T);                                                          \
    if (bytes == 64 && (last - first) % (4 * lanes) == 0)                                             \
      forward_sized<T, lanes, 4>(in, sizes, first, last, y, final_state, kept_states);                \
    else                                                                                              \
      forward_sized<T, lanes, 2>(in, sizes, first, last, y, final_state, kept_states);                \
  }

WUNENG_WKV7_FORWARD(portable, , 16)
#if defined(__x86_64__)
WUNENG_WKV7_FORWARD(avx2, __attribute__((target("arch=x86-64-v3"))), 32)
WUNENG_WKV7_FORWARD(avx512, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))), 64)
#endif
#undef WUNENG_WKV7_FORWARD

template <class T>
void forward(const Wkv7Inputs<T>& in, const Wkv7Sizes& sizes, std::int64_t first, std::int64_t last, T* y,
             T* final_state, T* kept_states) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4"))
    return forward_avx512(in, sizes, first, last, y, final_state, kept_states);
  if (__builtin_cpu_supports("x86-64-v3"))
    return forward_avx2(in, sizes, first, last, y, final_state, kept_states);
#endif
  forward_portable(in, sizes, first, last, y, final_state, kept_states);
}

}  // namespace

void wkv7_forward_cpu(const Wkv7Inputs<float>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, float* y, float* final_state, float* kept_states) {
  forward(in, sizes, first, last, y, final_state, kept_states);
}
void wkv7_forward_cpu(const Wkv7Inputs<double>& in, const Wkv7Sizes& sizes, std::int64_t first,
                      std::int64_t last, double* y, double* final_state, double* kept_states) {
  forward(in, sizes, first, last, y, final_state, kept_states);
}

}  // namespace wuneng::kernels
