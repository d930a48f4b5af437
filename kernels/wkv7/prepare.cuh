// wkv7_prepare: everything about a chunk that does not depend on the state before it (workspace.cuh), for
// each chunk and head on its own. Forward it makes ForwardRecords, backward BackwardRecords.
//
// The unit lower triangular inverse T is made by forward substitution in fp32: the powers that a Neumann
// series sums grow to thousands when tokens repeat, though T's elements stay within 1. T, and the score
// matrices that it multiplies, enter their products as the sum of two bf16, whose error is that of fp32 for
// our purposes.
#pragma once

#include "kernels/wkv7/chunk_table.cuh"
#include "kernels/wkv7/decay.cuh"

namespace wuneng::kernels {

constexpr int prepare_threads = 128;

template <int N, bool backward>
struct PrepareArguments {
  Wkv7Chunks chunks;
  int H;
  const device::bf16 *r, *log_decay, *k, *a, *b;  // [B, T, H, N]
  Record<N, backward>* records;                   // [chunks, H]
};

template <int N, bool backward>
struct PrepareShared {
  Record<N, backward> record;
  TokenTile<N> k, b;  // K~, B~; at first the log decay, nothing
  ScoreTile t_high, t_low, aak_low, arb_low, spare;
  alignas(16) float aab[chunk_tokens][chunk_tokens + 4];  // 4: rows on different banks
};

// Where in shared memory things lie: in the record, as far as it holds them. Each begins as the input it is
// made from, W forward as A~ and Q as B^.
template <int N>
struct PreparePlaces {
  TokenTile<N>&r, &a, &k_hat, &b_hat, &w;
  ScoreTile &aak, &arb, &ark, &a_prime;
};

template <int N>
WUNENG_DEVICE PreparePlaces<N> places(PrepareShared<N, false>& s) {
  auto& [chain, output] = s.record;
  return {output.r, chain.w, chain.k, chain.b, chain.w, s.spare, output.arb, output.ark, chain.a};
}
template <int N>
WUNENG_DEVICE PreparePlaces<N> places(PrepareShared<N, true>& s) {
  auto& [chain, gradient] = s.record;
  return {chain.k, chain.b, gradient.k, chain.w, gradient.w, gradient.aak, s.spare, gradient.ark, gradient.a};
}

// The scaled tiles of 16 channels from the inputs. A lane reads and writes the same elements everywhere.
template <int N, bool backward>
WUNENG_DEVICE void scale_inputs(PrepareShared<N, backward>& s, const PreparePlaces<N>& p, int column) {
  const ChunkDecay<N> decay(s.k, column);
  if (device::lane() < 4)
    for (int n = 0; n < 2; ++n)
      for (int e = 0; e < 2; ++e)
        s.record.chain.gamma[column + 8 * n + 2 * device::lane() + e] = decay.gamma.c[0][n][e];
  (load_strip(p.r, column) * exp2(decay.through)).store(p.r, 0, column);
  (load_strip(p.a, column) * exp2(decay.before())).store(p.a, 0, column);
  const Strip growth = exp2(-decay.through);
  const auto scale_keys = [&](TokenTile<N>& hat, TokenTile<N>& tilde) {
    Strip x = load_strip(hat, column) * growth;
    x.store(tilde, 0, column);
    (x * decay.gamma).store(hat, 0, column);
  };
  scale_keys(p.k_hat, s.k);
  scale_keys(p.b_hat, s.b);
}

// x as the sum of two bf16, the higher one rounded to nearest.
template <int rows, int columns>
WUNENG_DEVICE void store_split(device::Block<rows, columns>& x, ScoreTile& high, ScoreTile& low, int row,
                               int column) {
  x.store(high, row, column);
  x.each_pair([&](float& a, float& b, int i, int j) {
    const device::Word pair = high.pair(row + i, column + j);
    a -= device::low_half(pair), b -= device::high_half(pair);
  });
  x.store(low, row, column);
}

// The scores of 16 rows, of A~ in warps 0 and 1, of R~ in warps 2 and 3, against B~ and K~. Blocks above the
// diagonal are zero; on it the elements to be dropped are large but finite, and selected away.
template <int N, bool backward>
WUNENG_DEVICE void make_scores(PrepareShared<N, backward>& s, const PreparePlaces<N>& p) {
  const int row = 16 * (device::warp() % 2);
  const bool of_r = device::warp() >= 2;
  const TokenTile<N>& left = of_r ? p.r : p.a;
#pragma unroll
  for (int column = 0; column < chunk_tokens; column += 16) {
    device::Block<16, 16> by_b{}, by_k{};
    if (column <= row) {
      device::add_product<N>(by_b, device::plain(left, row), device::transposed(s.b, column));
      device::add_product<N>(by_k, device::plain(left, row), device::transposed(s.k, column));
    }
    const auto mask = [&](float& x, int i, int j) {
      const int distance = row + i - column - j;
      if (of_r ? distance < 0 : distance <= 0) x = 0;
    };
    by_b.each(mask);
    by_k.each(mask);
    if (of_r) {
      by_k.store(p.ark, row, column);
      if (backward)
        store_split(by_b, p.arb, s.arb_low, row, column);
      else
        by_b.store(p.arb, row, column);
    } else {
      by_b.each([&](float x, int i, int j) { s.aab[row + i][column + j] = x; });
      store_split(by_k, p.aak, s.aak_low, row, column);
    }
  }
}

// T = (I - Aab)^-1 by one warp, a column in each lane: T_t = e_t + sum_{s < t} Aab_ts T_s.
template <int N, bool backward>
WUNENG_DEVICE void invert(PrepareShared<N, backward>& s) {
  float t[chunk_tokens];
#pragma unroll
  for (int row = 0; row < chunk_tokens; ++row) {
    float sum = row == device::lane() ? 1.0f : 0.0f;
#pragma unroll
    for (int i = 0; i < row; ++i) sum += s.aab[row][i] * t[i];
    t[row] = sum;
    const device::bf16 high = device::to_bf16(sum);
    s.t_high.at(row, device::lane()) = high;
    s.t_low.at(row, device::lane()) = device::to_bf16(sum - device::to_float(high));
  }
}

// W and A'; backward Q and P^T too.
template <int N, bool backward>
WUNENG_DEVICE void make_factors(PrepareShared<N, backward>& s, const PreparePlaces<N>& p) {
  using device::plain, device::transposed, device::add_product;
  // This warp's columns of W and Q, of which one may lie where its operand does.
  const int column = N / 4 * device::warp();
  const int m = 16 * (device::warp() % 2), n = 16 * (device::warp() / 2);  // its block of A' and P^T
  device::Block<chunk_tokens, N / 4> w{};
  add_product<chunk_tokens>(w, plain(s.t_high), plain(p.a, 0, column));
  add_product<chunk_tokens>(w, plain(s.t_low), plain(p.a, 0, column));
  device::Block<16, 16> a{};
  add_product<chunk_tokens>(a, plain(s.t_high, m), plain(p.aak, 0, n));
  add_product<chunk_tokens>(a, plain(s.t_high, m), plain(s.aak_low, 0, n));
  add_product<chunk_tokens>(a, plain(s.t_low, m), plain(p.aak, 0, n));
  device::sync_warp();
  w.store(p.w, 0, column);
  a.store(p.a_prime, m, n);
  if constexpr (backward) {
    device::Block<chunk_tokens, N / 4> q{};
    add_product<chunk_tokens>(q, transposed(s.t_high), plain(p.b_hat, 0, column));
    add_product<chunk_tokens>(q, transposed(s.t_low), plain(p.b_hat, 0, column));
    device::Block<16, 16> pt{};
    add_product<chunk_tokens>(pt, transposed(s.t_high, 0, m), transposed(p.arb, n));
    add_product<chunk_tokens>(pt, transposed(s.t_high, 0, m), transposed(s.arb_low, n));
    add_product<chunk_tokens>(pt, transposed(s.t_low, 0, m), transposed(p.arb, n));
    device::sync_warp();
    q.store(s.record.chain.w, 0, column);
    pt.store(s.record.chain.a, m, n);
  }
}

// Blocks on a multiprocessor at a time.
constexpr int prepare_blocks(int N) { return N == 64 ? 4 : 2; }
static_assert(blocks_fit<PrepareShared<64, true>>(prepare_blocks(64)));
static_assert(blocks_fit<PrepareShared<128, true>>(prepare_blocks(128)));

// Grid (chunks, H), prepare_threads threads.
//
// budget wkv7_prepare<64, false>: registers 128, HMMA 60
// budget wkv7_prepare<64, true>: registers 128, HMMA 88
// budget wkv7_prepare<128, false>: registers 128, HMMA 108
// budget wkv7_prepare<128, true>: registers 128, HMMA 152
template <int N, bool backward>
__global__ void __launch_bounds__(prepare_threads, prepare_blocks(N))
    wkv7_prepare(PrepareArguments<N, backward> in) {
  auto& s = device::shared_memory<PrepareShared<N, backward>>();
  const PreparePlaces<N> p = places(s);
  const Wkv7Chunk chunk = chunk_at(in.chunks, blockIdx.x);
  const std::int64_t stride = static_cast<std::int64_t>(in.H) * N;
  const std::int64_t first = chunk.token * stride + blockIdx.y * N;
  const auto start = [&](TokenTile<N>& tile, const device::bf16* tokens) {
    device::start_copy<prepare_threads>(tile, tokens + first, stride, chunk.length);
  };
  start(s.k, in.log_decay), start(p.r, in.r), start(p.k_hat, in.k), start(p.a, in.a), start(p.b_hat, in.b);
  device::copy_async_commit();
  device::copy_async_wait<0>();
  device::sync_block();
#pragma unroll 1
  for (int strip = device::warp(); strip < N / strip_channels; strip += prepare_threads / device::warp_size)
    scale_inputs(s, p, strip_channels * strip);
  device::sync_block();
  make_scores(s, p);
  device::sync_block();
  if (device::warp() == 0) invert(s);
  device::sync_block();
  make_factors(s, p);
  device::sync_block();
  device::store<prepare_threads>(s.record,
                                 in.records + static_cast<std::int64_t>(blockIdx.x) * in.H + blockIdx.y);
}

}  // namespace wuneng::kernels
