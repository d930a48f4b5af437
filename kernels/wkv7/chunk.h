// The chunk-parallel form of WKV-7 (wkv7.h; arXiv 2503.14456, section 4.1), forward and backward, written
// once over a backend that knows a few matrix operations: the vector unit of a CPU (tile_cpu.h), the threads
// of a CUDA block (fp32.cuh), plain loops in double for the proof.
//
// A chunk is C tokens, one head; S0 [N_v, N_k] is the state before it. Per key channel e^{G_t} is the product
// of the decays of tokens 1 .. t, and what a token reads or writes is referred to the start of the chunk:
//
//   A~_t = a_t e^{G_{t-1}}   R~_t = r_t e^{G_t}   B~_t = b_t e^{-G_t}   K~_t = k_t e^{-G_t}
//
// so that the state after token t, divided by e^{G_t}, is S0 + sum_{s<=t} (u_s B~_s^T + v_s K~_s^T): no decay
// is left inside the chunk. With the pairs [A~; R~] (what reads the state), [B~; K~] (what writes it) and [U;
// V] (what is written), token by token in rows,
//
//   scores = [B~; K~] [A~; R~]^T, entries (s, t) with s < t for A~ and s <= t for R~
//   [U'; Y'] = [A~; R~] S0^T,   U solves u_t = u'_t + sum_{s<t} (scores_BA u_s + scores_KA v_s)
//   Y = Y' + scores_BR^T U + scores_KR^T V
//   S1 = (S0 + [U; V]^T [B~; K~]) diag(e^{G_C})
//
// The decay's lower bound e^{-1/2} (log) per token keeps e^{-G} below e^{0.61 C}: harmless in float32 up to C
// = 64. Rows past the end of a sequence are zero (and their decay one), which makes them do nothing.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define WUNENG_CHUNK __device__ inline
#define WUNENG_LANES  // what works on elements: inlined into code of any instruction set
#define WUNENG_UNROLL _Pragma("unroll")
#else
#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors are passed between inlined functions only
#define WUNENG_CHUNK inline
#define WUNENG_LANES __attribute__((always_inline))
#define WUNENG_UNROLL _Pragma("GCC unroll 32")
#endif

namespace wuneng::kernels::chunk {

// A matrix somewhere in memory, its shape and steps known to the compiler.
template <class T, int rows_, int columns_, int row_step_ = columns_, int column_step_ = 1>
struct Matrix {
  static constexpr int rows = rows_, columns = columns_, row_step = row_step_, column_step = column_step_;
  T* data;

  WUNENG_CHUNK WUNENG_LANES T& operator()(int i, int j) const { return data[i * row_step + j * column_step]; }
  WUNENG_CHUNK WUNENG_LANES Matrix<T, columns, rows, column_step, row_step> transposed() const {
    return {data};
  }
  // A block that begins at (first_row, first_column).
  template <int count, int width>
  WUNENG_CHUNK WUNENG_LANES Matrix<T, count, width, row_step, column_step> block(int first_row,
                                                                                 int first_column) const {
    return {&(*this)(first_row, first_column)};
  }
};

// Where the left factor of a product is not zero: everywhere, or in each of its square blocks on and above
// (below) the diagonal.
enum class Shape { full, upper, lower };

// What the backward pass of a chunk needs of its forward pass.
template <class T, int N, int C>
struct Tiles {
  T reads[2 * C * N];    // [A~; R~]
  T writes[2 * C * N];   // [B~; K~]
  T written[2 * C * N];  // [U; V]
  T growth[C * N];       // e^G
  T scores[2 * C * 2 * C];
  T state[N * N];  // S0
};

// Memory of one chunk's steps: what each holds in the forward; and in turn in the backward pass.
template <class T, int N, int C>
struct Work {
  T transposed[2 * C * N];  // [A~; R~]^T; [B~; K~]^T, [Z; dY]^T, then d[B~; K~] inside the chunk
  T products[2 * C * N];    // [U'; Y']^T; d[U; V]^T, then d[A~; R~]
  T outer[2 * C * N];       // [.; Y]; d[U; V], then d[B~; K~] through the state
  T slopes[2 * C * N];      // backward: [Z; dY]
  T grad_scores[2 * C * 2 * C];
  T sums[N];  // colsum_v(S0 * g)
};

// The channels of a chunk's first token; token t lies `stride` elements further per t. `length` <= C tokens.
template <class T>
struct Inputs {
  const T *r, *log_decay, *k, *v, *a, *b;
};
template <class T>
struct Outputs {
  T *r, *log_decay, *k, *v, *a, *b;
};
template <class Pointers>
WUNENG_CHUNK Pointers moved(const Pointers& p, std::int64_t by) {
  return {p.r + by, p.log_decay + by, p.k + by, p.v + by, p.a + by, p.b + by};
}

template <class Backend, int N, int C>
struct Algorithm {
  using T = typename Backend::Element;
  using Value = typename Backend::Value;  // one column, or as many as the backend's vectors have lanes
  using Pair = Matrix<T, 2 * C, N>;       // two tiles, one above the other
  using Single = Matrix<T, C, N>;
  using PairTransposed = Matrix<T, N, 2 * C>;
  using Scores = Matrix<T, 2 * C, 2 * C>;
  using State = Matrix<T, N, N>;
  using ChunkTiles = Tiles<T, N, C>;
  using ChunkWork = Work<T, N, C>;

  WUNENG_CHUNK static Single upper(T* pair) { return {pair}; }
  WUNENG_CHUNK static Single lower(T* pair) { return {pair + C * N}; }
  // Scores of B~ (0) or K~ (1) with A~ (0) or R~ (1).
  template <class Entry>
  WUNENG_CHUNK static auto part(Entry* scores, int write, int read) {
    return Matrix<Entry, 2 * C, 2 * C>{scores}.template block<C, C>(write * C, read * C);
  }

  // ----------------------------------------------------------------- forward ----

  // Rows that are soon read or written are called for ahead of time, one tensor's between two products: on a
  // CPU a head's rows lie too far apart to be guessed. They may lie outside of the sequence.
  template <class Entry>
  WUNENG_CHUNK static void fetch(Entry* rows, std::int64_t stride) {
    Backend::template prefetch<C, N>(rows, stride);
  }

  // Tiles of a chunk from the inputs: one exponential per element, then products and reciprocals.
  WUNENG_CHUNK static void load_tiles(const Inputs<T>& in, std::int64_t stride, int length,
                                      ChunkTiles& tiles) {
    T *a = upper(tiles.reads).data, *r = lower(tiles.reads).data, *b = upper(tiles.writes).data,
      *k = lower(tiles.writes).data, *v = lower(tiles.written).data, *growths = tiles.growth;
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      Value growth = Value{} + T(1);
      for (int t = 0; t < C; ++t) {
        const int to = t * N + j;
        const std::int64_t from = t * stride + j;
        const bool inside = t < length;
        Backend::store(a + to, inside ? Backend::load(in.a + from) * growth : Value{});
        if (inside) growth *= Backend::exponential(Backend::load(in.log_decay + from));
        const Value shrink = T(1) / growth;
        Backend::store(growths + to, growth);
        Backend::store(r + to, inside ? Backend::load(in.r + from) * growth : Value{});
        Backend::store(b + to, inside ? Backend::load(in.b + from) * shrink : Value{});
        Backend::store(k + to, inside ? Backend::load(in.k + from) * shrink : Value{});
        Backend::store(v + to, inside ? Backend::load(in.v + from) : Value{});
      }
    });
  }

  WUNENG_CHUNK static void mask(T* scores) {
    for (int write = 0; write < 2; ++write) {
      Backend::template keep_upper<false>(part(scores, write, 0));
      Backend::template keep_upper<true>(part(scores, write, 1));
    }
  }

  // U in place of U': row after row, exact, no inverse.
  WUNENG_CHUNK static void substitute(const T* scores, T* u) {
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      Value x[C];
      WUNENG_UNROLL
      for (int t = 0; t < C; ++t) x[t] = Backend::load(u + t * N + j);
      WUNENG_UNROLL
      for (int s = 0; s < C; ++s) WUNENG_UNROLL
      for (int t = s + 1; t < C; ++t) x[t] += x[s] * scores[s * 2 * C + t];
      WUNENG_UNROLL
      for (int t = 1; t < C; ++t) Backend::store(u + t * N + j, x[t]);
    });
  }

  // Scores and U of a chunk, given its tiles and S0; with `outputs` also Y', without the chunk's own writes,
  // in the lower half of work.outer.
  template <bool outputs>
  WUNENG_CHUNK static void solve(ChunkTiles& tiles, ChunkWork& work, const Inputs<T>& next,
                                 std::int64_t stride) {
    constexpr int width = outputs ? 2 * C : C;
    const PairTransposed reads{work.transposed};
    const Matrix<T, N, width> transposed{work.products};
    const Single u = upper(tiles.written);
    Backend::transpose(reads, Pair{tiles.reads});
    fetch(next.r, stride);
    Backend::product(Scores{tiles.scores}, Pair{tiles.writes}, reads);
    mask(tiles.scores);
    fetch(next.log_decay, stride);
    Backend::product(transposed, State{tiles.state}, reads.template block<N, width>(0, 0));
    fetch(next.k, stride);
    Backend::transpose(u, transposed.template block<N, C>(0, 0));
    if constexpr (outputs) Backend::transpose(lower(work.outer), transposed.template block<N, C>(0, C));
    Backend::template add_product<Shape::lower, C>(u, part(tiles.scores, 1, 0).transposed(),
                                                   lower(tiles.written));
    fetch(next.v, stride);
    substitute(tiles.scores, u.data);
    fetch(next.a, stride);
  }

  // S1 from S0; `to` may be the state of the tiles themselves.
  WUNENG_CHUNK static void advance(const ChunkTiles& tiles, T* to) {
    Backend::add_product_scaled(State{to}, Matrix<const T, N, N>{tiles.state},
                                Matrix<const T, 2 * C, N>{tiles.written}.transposed(),
                                Matrix<const T, 2 * C, N>{tiles.writes}, tiles.growth + (C - 1) * N);
  }

  // Y of `length` tokens; the tiles hold S0 and leave with S1 in its place.
  WUNENG_CHUNK static void forward(const Inputs<T>& in, std::int64_t stride, int length, ChunkTiles& tiles,
                                   ChunkWork& work, T* y) {
    load_tiles(in, stride, length, tiles);
    solve<true>(tiles, work, moved(in, C * stride), stride);
    const Single out = lower(work.outer);
    const auto scores = Scores{tiles.scores}.template block<2 * C, C>(0, C);
    Backend::template add_product<Shape::lower, C>(out, scores.transposed(), Pair{tiles.written});
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      for (int t = 0; t < length; ++t)
        Backend::store(y + t * stride + j, Backend::load(out.data + t * N + j));
    });
    advance(tiles, tiles.state);
  }

  // ---------------------------------------------------------------- backward ----
  // `grad` [N_v, N_k] comes as the gradient of S1 and leaves as that of S0. Referred to the start of the
  // chunk it is g = grad diag(e^{G_C}), and with Z the gradient of U' (that is, of what enters the
  // substitution):
  //
  //   dU = B~ g^T + scores_BR dY      z_s = du_s + sum_{t>s} scores_BA z_t
  //   dV = K~ g^T + scores_KA Z + scores_KR dY
  //   d scores = [U; V] [Z; dY]^T under the mask of the scores
  //   d[A~; R~] = [Z; dY] S0 + (d scores)^T [B~; K~]
  //   d[B~; K~] = [U; V] g   + (d scores) [A~; R~]
  //   dS0 = g + [Z; dY]^T [A~; R~]
  //
  // The decay of token t lies on every path from a write before t to a read at t or later (an a reads before
  // its own decay). Paths inside the chunk are sums over t of R~ dR~ + A~ dA~ - K~ dK~ - B~ dB~; those
  // through S0 and g are added up apart, so that nothing large cancels:
  //
  //   d log_decay_t = sum_{s>=t} (R~ dR~ - K~ dK~ - B~ dB~)_s + sum_{s>t} (A~ dA~)_s      (d[B~; K~] inside
  //   only)
  //                 + sum_{s<t} (K~ dK~ + B~ dB~)_s + colsum_v(S0 * g)                    (d[B~; K~] through
  //                 g only)

  // dY into the lower half of [Z; dY]; null is zero.
  WUNENG_CHUNK static void load_slopes(const T* grad_y, std::int64_t stride, int length, ChunkWork& work) {
    T* dy = lower(work.slopes).data;
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      for (int t = 0; t < C; ++t)
        Backend::store(dy + t * N + j,
                       grad_y && t < length ? Backend::load(grad_y + t * stride + j) : Value{});
    });
  }

  // g from the gradient of S1, and colsum_v(S0 * g).
  WUNENG_CHUNK static void refer_to_start(const ChunkTiles& tiles, T* grad, ChunkWork& work) {
    const T *gamma = tiles.growth + (C - 1) * N, *state = tiles.state;
    T* sums = work.sums;
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      const Value scale = Backend::load(gamma + j);
      Value sum = {}, other = {};
      for (int v = 0; v < N; v += 2) {
        const int at = v * N + j, next = at + N;
        const Value g = Backend::load(grad + at) * scale, g_next = Backend::load(grad + next) * scale;
        Backend::store(grad + at, g);
        Backend::store(grad + next, g_next);
        sum += Backend::load(state + at) * g;
        other += Backend::load(state + next) * g_next;
      }
      Backend::store(sums + j, sum + other);
    });
  }

  // Z from dU, the substitution's transpose.
  WUNENG_CHUNK static void substitute_transposed(const T* scores, const T* du, T* z) {
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      Value x[C];
      WUNENG_UNROLL
      for (int t = 0; t < C; ++t) x[t] = Backend::load(du + t * N + j);
      WUNENG_UNROLL
      for (int t = C - 1; t >= 0; --t) WUNENG_UNROLL
      for (int s = 0; s < t; ++s) x[s] += x[t] * scores[s * 2 * C + t];
      WUNENG_UNROLL
      for (int t = 0; t < C; ++t) Backend::store(z + t * N + j, x[t]);
    });
  }

  // Z, and dV into the outputs.
  WUNENG_CHUNK static void values_backward(const ChunkTiles& tiles, const State& grad, std::int64_t stride,
                                           int length, ChunkWork& work, T* grad_v) {
    const T* scores = tiles.scores;
    const Single du = upper(work.outer), dv = lower(work.outer), dy = lower(work.slopes);
    const PairTransposed writes{work.transposed}, transposed{work.products};
    Backend::transpose(writes, Matrix<const T, 2 * C, N>{tiles.writes});
    Backend::product(transposed, grad, writes);
    Backend::transpose(Pair{work.outer}, transposed);
    Backend::template add_product<Shape::upper, C>(du, part(scores, 0, 1), dy);
    substitute_transposed(scores, du.data, work.slopes);
    Backend::template add_product<Shape::upper, C>(
        dv, Matrix<const T, 2 * C, 2 * C>{scores}.template block<C, 2 * C>(C, 0), Pair{work.slopes});
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      for (int t = 0; t < length; ++t)
        Backend::store(grad_v + t * stride + j, Backend::load(dv.data + t * N + j));
    });
  }

  // d[B~; K~] through the state (work.outer) and inside the chunk (work.transposed), d[A~; R~]
  // (work.products).
  WUNENG_CHUNK static void keys_backward(const ChunkTiles& tiles, const State& grad, ChunkWork& work,
                                         const Outputs<T>& out, std::int64_t stride) {
    const Matrix<const T, 2 * C, N> written{tiles.written}, reads{tiles.reads}, writes{tiles.writes};
    const Scores scores{work.grad_scores};
    const PairTransposed slopes{work.transposed};
    Backend::transpose(slopes, Pair{work.slopes});
    Backend::product(scores, written, slopes);
    mask(work.grad_scores);
    fetch(out.k, stride);
    Backend::product(Pair{work.outer}, written, grad);
    fetch(out.b, stride);
    Backend::template product<Shape::upper, C>(Pair{work.transposed}, scores, reads);
    fetch(out.log_decay, stride);
    Backend::product(Pair{work.products}, Pair{work.slopes}, Matrix<const T, N, N>{tiles.state});
    Backend::template add_product<Shape::lower, C>(Pair{work.products}, scores.transposed(), writes);
  }

  // The gradients of r, k, a, b and log_decay from those of the tiles.
  WUNENG_CHUNK static void store_gradients(const ChunkTiles& tiles, std::int64_t stride, int length,
                                           const ChunkWork& work, const Outputs<T>& out) {
    const T *growths = tiles.growth, *reads = tiles.reads, *writes = tiles.writes, *sums = work.sums;
    const T *through = work.outer, *inside = work.transposed, *grad_reads = work.products;
    Backend::template columns<N>([=](int j) WUNENG_LANES {
      constexpr int second = C * N;
      Value sum = Backend::load(sums + j);
      Value before[C];
      WUNENG_UNROLL
      for (int t = 0; t < C; ++t) {
        const int at = t * N + j;
        before[t] = sum;
        sum += Backend::load(writes + at) * Backend::load(through + at) +
               Backend::load(writes + second + at) * Backend::load(through + second + at);
      }
      Value after = {};
      WUNENG_UNROLL
      for (int t = C - 1; t >= 0; --t) {
        if (t >= length) continue;
        const int at = t * N + j;
        const std::int64_t to = t * stride + j;
        const Value growth = Backend::load(growths + at), shrink = T(1) / growth;
        const Value earlier = t > 0 ? Backend::load(growths + at - N) : Value{} + T(1);
        const Value da = Backend::load(grad_reads + at), dr = Backend::load(grad_reads + second + at);
        const Value db = Backend::load(inside + at), dk = Backend::load(inside + second + at);
        after += Backend::load(reads + second + at) * dr - Backend::load(writes + at) * db -
                 Backend::load(writes + second + at) * dk;
        Backend::store(out.log_decay + to, before[t] + after);
        after += Backend::load(reads + at) * da;
        Backend::store(out.a + to, da * earlier);
        Backend::store(out.r + to, dr * growth);
        Backend::store(out.b + to, (db + Backend::load(through + at)) * shrink);
        Backend::store(out.k + to, (dk + Backend::load(through + second + at)) * shrink);
      }
    });
  }

  WUNENG_CHUNK static void backward(const ChunkTiles& tiles, const T* grad_y, std::int64_t stride, int length,
                                    T* grad, ChunkWork& work, const Outputs<T>& out) {
    load_slopes(grad_y, stride, length, work);
    fetch(out.v, stride);
    refer_to_start(tiles, grad, work);
    fetch(out.r, stride);
    values_backward(tiles, State{grad}, stride, length, work, out.v);
    fetch(out.a, stride);
    keys_backward(tiles, State{grad}, work, out, stride);
    if (grad_y) fetch(grad_y - C * stride, stride);
    store_gradients(tiles, stride, length, work, out);
    Backend::template add_product<Shape::full>(State{grad}, Pair{work.slopes}.transposed(),
                                               Matrix<const T, 2 * C, N>{tiles.reads});
  }

  // --------------------------------------------------------- a whole sequence ----

  WUNENG_CHUNK static void copy_state(const T* from, T* to) {  // null: zero
    Backend::template columns<N * N>(
        [=](int j) WUNENG_LANES { Backend::store(to + j, from ? Backend::load(from + j) : Value{}); });
  }
  WUNENG_CHUNK static int chunk_length(std::int64_t left) { return left < C ? static_cast<int>(left) : C; }

  static constexpr int span_tokens = 64;  // from one kept state to the next

  // Y of T tokens and, each unless null, the final state and the states before tokens 64, 128, ...
  WUNENG_CHUNK static void forward_sequence(const Inputs<T>& in, std::int64_t stride, std::int64_t tokens,
                                            const T* initial_state, T* y, T* final_state, T* kept_states,
                                            ChunkTiles& tiles, ChunkWork& work) {
    copy_state(initial_state, tiles.state);
    for (std::int64_t t = 0; t < tokens; t += C) {
      if (kept_states && t > 0 && t % span_tokens == 0)
        copy_state(tiles.state, kept_states + (t / span_tokens - 1) * N * N);
      forward(moved(in, t * stride), stride, chunk_length(tokens - t), tiles, work, y + t * stride);
    }
    if (final_state) copy_state(tiles.state, final_state);
  }

  static constexpr int span_chunks = span_tokens / C;

  // What the backward pass of a sequence works in.
  struct Span {
    ChunkTiles chunks[span_chunks];
    T grad[N * N];
  };

  // Gradients of T tokens and, unless null, of the initial state; grad_y and grad_final_state null: zero.
  // From the last span to the first: its chunks are made again from the kept state, then differentiated in
  // reverse.
  WUNENG_CHUNK static void backward_sequence(const Inputs<T>& in, std::int64_t stride, std::int64_t tokens,
                                             const T* initial_state, const T* kept_states, const T* grad_y,
                                             const T* grad_final_state, const Outputs<T>& out,
                                             T* grad_initial_state, Span& span, ChunkWork& work) {
    copy_state(grad_final_state, span.grad);
    for (std::int64_t s = (tokens - 1) / span_tokens; s >= 0; --s) {
      const std::int64_t begin = s * span_tokens,
                         end = begin + span_tokens < tokens ? begin + span_tokens : tokens;
      const int chunks = static_cast<int>((end - begin + C - 1) / C);
      copy_state(s > 0 ? kept_states + (s - 1) * N * N : initial_state, span.chunks[0].state);
      for (int c = 0; c < chunks; ++c) {
        const std::int64_t t = begin + c * C;
        load_tiles(moved(in, t * stride), stride, chunk_length(end - t), span.chunks[c]);
        const Inputs<T> next = moved(in, (t + C) * stride);
        solve<false>(span.chunks[c], work, next, stride);
        if (c + 1 < chunks) advance(span.chunks[c], span.chunks[c + 1].state);
        fetch(next.b, stride);
      }
      for (int c = chunks - 1; c >= 0; --c) {
        const std::int64_t t = begin + c * C;
        backward(span.chunks[c], grad_y ? grad_y + t * stride : nullptr, stride, chunk_length(end - t),
                 span.grad, work, moved(out, t * stride));
      }
    }
    if (grad_initial_state) copy_state(span.grad, grad_initial_state);
  }
};

}  // namespace wuneng::kernels::chunk
