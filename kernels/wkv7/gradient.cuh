// wkv7_gradient: the gradients of a chunk's inputs, for each chunk and head on its own, from the state S0
// before the chunk and g, the gradient of the state after it (workspace.cuh for the notation):
//
//   U = W S0^T + A' V      Z = Q g^T + P^T dO      dV = Ark^T dO + Aak^T Z + K^ g^T
//   dAab = stril(Z U^T)    dAak = stril(Z V^T)     dArb = tril(dO U^T)    dArk = tril(dO V^T)
//   X_r = dArk K~ + dArb B~         X_a = dAak K~ + dAab B~           (through the scores of this chunk)
//   X_k = dArk^T R~ + dAak^T A~     X_b = dArb^T R~ + dAab^T A~
//   I_r = dO S0     I_a = Z S0      I_k = V g      I_b = U g          (through the states)
//   dr = e^G (X_r + I_r)   da = e^E (X_a + I_a)   dk = e^-G (X_k + gamma I_k)   db = e^-G (X_b + gamma I_b)
//   dlog_decay = sum_{s >= t} (R~ (X_r + I_r) + A~ (X_a + I_a) - K~ X_k - B~ X_b)_s - A~ (X_a + I_a)
//              + sum_{s < t} gamma (K~ I_k + B~ I_b)_s + gamma colsum(S0 g)
//
// The first sum cancels almost wholly, and does so only because the tiles R~ .. B~ in it are the very
// numbers, rounded to bf16, that the products X were made with.
#pragma once

#include "kernels/wkv7/chunk_table.cuh"
#include "kernels/wkv7/decay.cuh"

namespace wuneng::kernels {

// A warp has 16 channels of all tokens; or 16 value rows, for which there are N / 64 warps.
constexpr int gradient_threads(int N) { return N / strip_channels * device::warp_size; }

// Rows that each warp has of one of the four score matrices: all 32, or half.
constexpr int score_rows(int N) { return 4 * chunk_tokens / (N / strip_channels); }

template <int N>
struct GradientArguments {
  Wkv7Chunks chunks;
  int H;
  const BackwardRecord<N>* records;                    // [chunks, H]
  const device::bf16 *states, *state_gradients;        // S0 and g, [chunks, H, N, N]
  const device::bf16 *log_decay, *k, *v, *b, *grad_y;  // [B, T, H, N]
  device::bf16 *dr, *dlog_decay, *dk, *dv, *da, *db;   // likewise
};

// While the kernel goes through the value rows, 64 at a time.
template <int N>
struct GradientByValue {
  device::Tile<value_rows, N> s0, g;
  device::Tile<chunk_tokens, value_rows> v, grad_y, u, z;  // v is replaced by dV
  GradientTiles<N> tiles;
  TokenTile<N> q;
  ScoreTile pt;
};

// Afterwards.
template <int N>
struct GradientByChannel {
  TokenTile<N> r, log_decay, k, a, b;  // R~, log decay, K~, A~, B~; k and b at first as they are
  TokenTile<N> dr, dk, da, db;         // dlog_decay takes the place of the log decay
};

template <int N>
struct GradientShared {
  union {
    GradientByValue<N> by_value;
    GradientByChannel<N> by_channel;
  };
  ScoreTile scores[4];  // dAab, dAak, dArb, dArk
};

// What a warp sums over the value rows.
template <int N>
struct GradientSums {
  Strip r, a, k, b;  // I_r, I_a, I_k, I_b of its 16 channels
  float state[2];    // of S0 g in channels lane / 4 and 8 + lane / 4, by a quarter of the rows
  device::Block<score_rows(N), chunk_tokens> score;  // its rows of one of dAab, dAak, dArb, dArk
};

// The terms of dlog_decay_t that are summed over tokens.
struct DecaySums {
  Strip from_here;  // over all from t on
  Strip before;     // over all before t
  Strip own;        // of t itself, to be left out of a sum that includes it
};

template <int N>
struct Gradient {
  static constexpr int threads = gradient_threads(N);
  static constexpr int rows = score_rows(N);  // also the tokens of a warp's ValuePart

  const GradientArguments<N>& in;
  GradientShared<N>& shared;
  Wkv7Chunk chunk;
  std::int64_t record;  // chunk and head
  std::int64_t tokens;  // of the chunk's first token in a tensor of tokens
  std::int64_t stride;  // between tokens

  WUNENG_DEVICE static int strip() { return strip_channels * device::warp(); }
  WUNENG_DEVICE static int score() { return device::warp() * rows / chunk_tokens; }
  WUNENG_DEVICE static int score_row() { return device::warp() * rows % chunk_tokens; }

  WUNENG_DEVICE void load_by_value(int first_row) const {
    GradientByValue<N>& s = shared.by_value;
    const std::int64_t state = (record * N + first_row) * N;
    device::start_copy<threads>(s.s0, in.states + state, N);
    device::start_copy<threads>(s.g, in.state_gradients + state, N);
    device::start_copy<threads>(s.v, in.v + tokens + first_row, stride, chunk.length);
    device::start_copy<threads>(s.grad_y, in.grad_y + tokens + first_row, stride, chunk.length);
    if (first_row == 0) {
      device::start_copy<threads>(s.tiles, &in.records[record].gradient);
      device::start_copy<threads>(s.q, &in.records[record].chain.w);
      device::start_copy<threads>(s.pt, &in.records[record].chain.a);
    }
    device::copy_async_commit();
    device::copy_async_wait<0>();
    device::sync_block();
  }

  // This warp's part of a matrix of tokens by 64 value rows: 16 columns, of 32 tokens or 16.
  using ValuePart = device::Block<rows, 16>;
  WUNENG_DEVICE static int value_column() { return 16 * (device::warp() % 4); }
  WUNENG_DEVICE static int value_token() { return rows == 16 ? 16 * (device::warp() / 4) : 0; }

  WUNENG_DEVICE void make_u_and_z() const {
    using device::plain, device::transposed, device::add_product;
    GradientByValue<N>& s = shared.by_value;
    const int column = value_column(), token = value_token();
    ValuePart u{}, z{};
    add_product<N>(u, plain(s.tiles.w, token), transposed(s.s0, column));
    add_product<chunk_tokens>(u, plain(s.tiles.a, token), plain(s.v, 0, column));
    u.store(s.u, token, column);
    add_product<N>(z, plain(s.q, token), transposed(s.g, column));
    add_product<chunk_tokens>(z, plain(s.pt, token), plain(s.grad_y, 0, column));
    z.store(s.z, token, column);
  }

  WUNENG_DEVICE void store_dv(int first_row) const {
    using device::plain, device::transposed, device::add_product;
    GradientByValue<N>& s = shared.by_value;
    const int column = value_column(), token = value_token();
    ValuePart dv{};
    add_product<chunk_tokens>(dv, transposed(s.tiles.ark, 0, token), plain(s.grad_y, 0, column));
    add_product<chunk_tokens>(dv, transposed(s.tiles.aak, 0, token), plain(s.z, 0, column));
    add_product<N>(dv, plain(s.tiles.k, token), transposed(s.g, column));
    dv.store(s.v, token, column);
    device::sync_block();
    device::store_rows<threads, value_rows>(s.v, 0, in.dv + tokens + first_row, stride, chunk.length,
                                            static_cast<int>(threadIdx.x));
  }

  // Adds the 64 value rows' part to the sums.
  WUNENG_DEVICE void sum_over_values(GradientSums<N>& sums) const {
    using device::plain, device::transposed;
    const GradientByValue<N>& s = shared.by_value;
#pragma unroll
    for (int row = 0; row < value_rows; row += 16) {
      std::uint32_t s0[4], g[4];
      plain(s.s0, row, strip()).load_right(s0, 0, 0);
      plain(s.g, row, strip()).load_right(g, 0, 0);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sums.state[i / 2] += device::low_half(s0[i]) * device::low_half(g[i]) +
                             device::high_half(s0[i]) * device::high_half(g[i]);
      add_outer(sums.r, plain(s.grad_y, 0, row), s0);
      add_outer(sums.a, plain(s.z, 0, row), s0);
      add_outer(sums.k, plain(s.v, 0, row), g);
      add_outer(sums.b, plain(s.u, 0, row), g);
    }
    const auto& left = score() < 2 ? s.z : s.grad_y;
    const auto& right = score() % 2 == 0 ? s.u : s.v;
    device::add_product<value_rows>(sums.score, plain(left, score_row()), transposed(right));
  }

  // sum += left right over 16 value rows, for a right operand in registers.
  template <class Left>
  WUNENG_DEVICE static void add_outer(Strip& sum, const Left& left, const std::uint32_t (&right)[4]) {
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      std::uint32_t a[4];
      left.load_left(a, 16 * m, 0);
      device::mma_bf16(sum.c[m][0], a, right[0], right[1]);
      device::mma_bf16(sum.c[m][1], a, right[2], right[3]);
    }
  }

  WUNENG_DEVICE void store_score(device::Block<rows, chunk_tokens>& x) const {
    x.each([](float& value, int i, int j) {
      const int distance = score_row() + i - j;
      if (score() < 2 ? distance <= 0 : distance < 0) value = 0;
    });
    x.store(shared.scores[score()], score_row(), 0);
  }

  WUNENG_DEVICE void load_by_channel() const {
    GradientByChannel<N>& s = shared.by_channel;
    device::start_copy<threads>(s.r, &in.records[record].chain.k);
    device::start_copy<threads>(s.a, &in.records[record].chain.b);
    device::start_copy<threads>(s.log_decay, in.log_decay + tokens, stride, chunk.length);
    device::start_copy<threads>(s.k, in.k + tokens, stride, chunk.length);
    device::start_copy<threads>(s.b, in.b + tokens, stride, chunk.length);
    device::copy_async_commit();
    device::copy_async_wait<0>();
    device::sync_block();
  }

  // K~ and B~ from k and b, by the lanes that hold their elements.
  WUNENG_DEVICE void scale_keys(const Strip& through) const {
    GradientByChannel<N>& s = shared.by_channel;
    const Strip growth = exp2(-through);
    (load_strip(s.k, strip()) * growth).store(s.k, 0, strip());
    (load_strip(s.b, strip()) * growth).store(s.b, 0, strip());
    device::sync_warp();
  }

  // x += m left + n right, in this warp's channels.
  template <class M, class L, class R>
  WUNENG_DEVICE static void add_scores(Strip& x, const M& m, const L& left, const M& n, const R& right) {
    device::add_product<chunk_tokens>(x, m, device::plain(left, 0, strip()));
    device::add_product<chunk_tokens>(x, n, device::plain(right, 0, strip()));
  }

  // dk or db, and their parts of dlog_decay.
  WUNENG_DEVICE void finish_key(Strip& x, Strip& i, const TokenTile<N>& tile, TokenTile<N>& gradient,
                                const ChunkDecay<N>& decay, DecaySums& sums) const {
    const Strip key = load_strip(tile, strip());
    i = i * decay.gamma;
    device::elementwise([](float& y, float k, float x) { y -= k * x; }, sums.from_here, key, x);
    device::elementwise([](float& y, float k, float i) { y += k * i; }, sums.before, key, i);
    device::elementwise([](float& x, float i) { x += i; }, x, i);
    (x * exp2(-decay.through)).store(gradient, 0, strip());
  }

  // The gradients by channel, to shared memory.
  WUNENG_DEVICE void make_by_channel(GradientSums<N>& sums) const {
    using device::plain, device::transposed;
    GradientByChannel<N>& s = shared.by_channel;
    const auto& [ab, ak, rb, rk] = shared.scores;
    const ChunkDecay<N> decay(s.log_decay, strip());
    scale_keys(decay.through);

    DecaySums d{};
    add_scores(sums.r, plain(rk), s.k, plain(rb), s.b);
    d.from_here = load_strip(s.r, strip()) * sums.r;
    (sums.r * exp2(decay.through)).store(s.dr, 0, strip());
    add_scores(sums.a, plain(ak), s.k, plain(ab), s.b);
    d.own = load_strip(s.a, strip()) * sums.a;
    device::elementwise([](float& y, float a) { y += a; }, d.from_here, d.own);
    (sums.a * exp2(decay.before())).store(s.da, 0, strip());

    Strip x_k{}, x_b{};
    add_scores(x_k, transposed(rk), s.r, transposed(ak), s.a);
    finish_key(x_k, sums.k, s.k, s.dk, decay, d);
    add_scores(x_b, transposed(rb), s.r, transposed(ab), s.a);
    finish_key(x_b, sums.b, s.b, s.db, decay, d);
    decay_gradient(d, decay.gamma * state_sums(sums)).store(s.log_decay, 0, strip());
    device::sync_block();
  }

  // From its sums over tokens and gamma colsum(S0 g).
  WUNENG_DEVICE static Strip decay_gradient(DecaySums& d, const Strip& state) {
    device::elementwise([](float& y, float x) { y += x; }, d.own, d.before);
    accumulate_tokens<true>(d.from_here);
    accumulate_tokens<false>(d.before);
    device::elementwise([](float& y, float before, float own, float s) { y += before - own + s; },
                        d.from_here, d.before, d.own, state);
    return d.from_here;
  }

  // colsum(S0 g) of this lane's channels, the same for all tokens.
  WUNENG_DEVICE static Strip state_sums(const GradientSums<N>& sums) {
    Strip all;
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      float sum = sums.state[n];
      sum += device::shuffle_xor(sum, 1);
      sum += device::shuffle_xor(sum, 2);  // of channel 8 n + lane / 4
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float own = device::shuffle(sum, 4 * (2 * (device::lane() % 4) + e));
#pragma unroll
        for (int q = 0; q < 4; ++q) strip_element(all, q, n, e) = own;
      }
    }
    return all;
  }

  WUNENG_DEVICE void store_by_channel() const {
    const GradientByChannel<N>& s = shared.by_channel;
    const auto rows = [&](const TokenTile<N>& tile, device::bf16* to) {
      device::store_rows<threads, N>(tile, 0, to + tokens, stride, chunk.length,
                                     static_cast<int>(threadIdx.x));
    };
    rows(s.dr, in.dr), rows(s.log_decay, in.dlog_decay), rows(s.dk, in.dk), rows(s.da, in.da),
        rows(s.db, in.db);
  }

  WUNENG_DEVICE void run() const {
    GradientSums<N> sums{};
#pragma unroll 1
    for (int first_row = 0; first_row < N; first_row += value_rows) {
      load_by_value(first_row);
      make_u_and_z();
      device::sync_block();
      sum_over_values(sums);
      if (first_row + value_rows == N) store_score(sums.score);
      device::sync_block();
      store_dv(first_row);
      device::sync_block();
    }
    load_by_channel();
    make_by_channel(sums);
    store_by_channel();
  }
};

// Blocks on a multiprocessor at a time: as many as the registers allow.
constexpr int gradient_blocks(int N) { return N == 64 ? 3 : 1; }
static_assert(blocks_fit<GradientShared<64>>(gradient_blocks(64)));
static_assert(blocks_fit<GradientShared<128>>(gradient_blocks(128)));

// Grid (chunks, H), gradient_threads(N) threads. HMMA: for sm_80 and 90 8 more, of blocks that are masked
// away.
//
// budget wkv7_gradient<64>: registers 168, HMMA 232
// budget wkv7_gradient<128>: registers 255, HMMA 208
template <int N>
__global__ void __launch_bounds__(gradient_threads(N), gradient_blocks(N))
    wkv7_gradient(GradientArguments<N> in) {
  const Wkv7Chunk chunk = chunk_at(in.chunks, blockIdx.x);
  const std::int64_t stride = static_cast<std::int64_t>(in.H) * N;
  Gradient<N>{in,
              device::shared_memory<GradientShared<N>>(),
              chunk,
              static_cast<std::int64_t>(blockIdx.x) * in.H + blockIdx.y,
              chunk.token * stride + blockIdx.y * N,
              stride}
      .run();
}

}  // namespace wuneng::kernels
