// What the WKV-7 kernels hand to each other through global memory: one record per chunk and head, which lies
// there exactly as in shared memory, so that one run of 16-byte copies brings it in.
//
// Notation, per chunk of C = 32 tokens and head, of the recurrence of wkv7.h (arXiv 2503.14456). Rows are
// tokens t, S0 is the state before the chunk, S1 the one after it:
//   G_t = sum_{s <= t} log_decay_s, E_t = G_{t-1};  gamma = e^{G_C}
//   R~ = r e^G   A~ = a e^E   K~ = k e^-G   B~ = b e^-G   K^ = k e^{G_C - G}   B^ = b e^{G_C - G}      [C, N]
//   Aab = stril(A~ B~^T)  Aak = stril(A~ K~^T)  Arb = tril(R~ B~^T)  Ark = tril(R~ K~^T)               [C, C]
//   T = (I - Aab)^-1   W = T A~   A' = T Aak   P = Arb T   Q = T^T B^
//
//   U = W S0^T + A' V            Z = Q g^T + P^T dO
//   O = R~ S0^T + Ark V + Arb U
//   S1 = S0 diag(gamma) + V^T K^ + U^T B^        dS0 = g diag(gamma) + dO^T R~ + Z^T A~,   g = dS1
//
// The two recurrences over chunks, of S forwards and of its gradient g backwards, are the same one.
#pragma once

#include <type_traits>

#include "kernels/device/tile.cuh"
#include "kernels/wkv7/cuda.h"

namespace wuneng::kernels {

constexpr int chunk_tokens = wkv7_chunk_tokens;
constexpr int value_rows = 64;  // value rows of a state that are on chip at a time

template <int N>
using TokenTile = device::Tile<chunk_tokens, N>;
using ScoreTile = device::Tile<chunk_tokens, chunk_tokens>;

// One step of either recurrence: X = w S^T + a V,  S' = S diag(gamma) + V^T k + X^T b.
template <int N>
struct ChainTiles {
  TokenTile<N> w, k, b;  // W, K^, B^; backward Q, R~, A~
  ScoreTile a;           // A'; backward P^T
  float gamma[N];
};

template <int N>
struct OutputTiles {
  TokenTile<N> r;  // R~
  ScoreTile ark, arb;
};

// What the gradients need beside the inputs.
template <int N>
struct GradientTiles {
  TokenTile<N> w, k;  // W, K^
  ScoreTile a, ark, aak;
};

template <int N>
struct ForwardRecord {
  ChainTiles<N> chain;
  OutputTiles<N> output;
};

template <int N>
struct BackwardRecord {
  ChainTiles<N> chain;
  GradientTiles<N> gradient;
};

template <int N, bool backward>
using Record = std::conditional_t<backward, BackwardRecord<N>, ForwardRecord<N>>;

// Whether so many blocks fit into the shared memory of a data-centre GPU's multiprocessor (227 KiB, of which
// each block costs one more), and one into that of any GPU from sm_80 on (99 KiB).
template <class Shared>
constexpr bool blocks_fit(int blocks) {
  return blocks * (sizeof(Shared) + 1024) <= 228 * 1024 && sizeof(Shared) <= 99 * 1024;
}

}  // namespace wuneng::kernels
