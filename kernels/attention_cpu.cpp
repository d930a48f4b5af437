// Attention by tiles of 64 queries and 64 keys. Scores are kept transposed, keys in rows: a lane of the
// vector unit is a query, and its softmax needs no sum over lanes. Sums run over the keys, and in the
// gradients of keys over the queries, in order.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/attention_launch.h"
#include "kernels/vector_math.h"
#include "kernels/wkv7/tile_cpu.h"

namespace wuneng::kernels {
namespace {

using chunk::Matrix;

constexpr int tile_rows = 64, tile_size = tile_rows * tile_rows;

std::int64_t tiles_of(std::int64_t tokens) { return (tokens + tile_rows - 1) / tile_rows; }

// Memory of one head's work, handed out in pieces that begin at a cache line.
template <class T>
class Scratch {
 public:
  explicit Scratch(std::int64_t size) : memory_(static_cast<std::size_t>(size + line)) {
    const auto past = reinterpret_cast<std::uintptr_t>(memory_.data()) % 64 / sizeof(T);
    next_ = memory_.data() + (line - static_cast<std::int64_t>(past)) % line;
  }
  T* take(std::int64_t size) {
    T* piece = next_;
    next_ += size;
    return piece;
  }

 private:
  static constexpr std::int64_t line = 64 / sizeof(T);
  std::vector<T> memory_;
  T* next_;
};

template <class Backend, int N>
struct Attention {
  using T = typename Backend::Element;
  using Value = typename Backend::Value;
  using Rows = Matrix<T, tile_rows, N>;  // of tokens
  using Transposed = Matrix<T, N, tile_rows>;
  using Scores = Matrix<T, tile_rows, tile_rows>;  // (key, query)

  static constexpr int rows_size = tile_rows * N;

  // Tokens [first, first + 64) times `scale`, zero beyond the sequence.
  static void load_rows(HeadRows<const T> from, std::int64_t first, std::int64_t tokens, T scale, T* to) {
    for (std::int64_t t = first; t < first + tile_rows; ++t, to += N)
      for (int n = 0; n < N; ++n) to[n] = t < tokens ? from.data[t * from.stride + n] * scale : T(0);
  }

  static void load_all(HeadRows<const T> from, std::int64_t tokens, T* to) {
    for (std::int64_t i = 0; i < tiles_of(tokens); ++i)
      load_rows(from, i * tile_rows, tokens, T(1), to + i * rows_size);
  }

  static void store_rows(const T* from, std::int64_t first, std::int64_t tokens, HeadRows<T> to) {
    for (std::int64_t t = first; t < std::min(tokens, first + tile_rows); ++t, from += N)
      std::copy(from, from + N, to.data + t * to.stride);
  }

  // Keys after their query, in the tile on the diagonal.
  static void fill_later_keys(T* scores, T value) {
    for (int key = 1; key < tile_rows; ++key)
      std::fill(scores + key * tile_rows, scores + key * tile_rows + key, value);
  }

  // In place of scores [keys, 64] their exponentials, referred to the largest of each query; sums and the
  // logarithms of the sums of what was not referred to it.
  static void exponentials(T* scores, std::int64_t keys, T* sums, T* log_sums) {
    T largest[tile_rows];
    T* tops = largest;
    Backend::template columns<tile_rows>([=](int j) WUNENG_LANES {
      Value top = Backend::load(scores + j), sum = {};
      for (std::int64_t k = 1; k < keys; ++k) {
        const Value x = Backend::load(scores + k * tile_rows + j);
        top = x > top ? x : top;
      }
      for (std::int64_t k = 0; k < keys; ++k) {
        T* at = scores + k * tile_rows + j;
        const Value x = Backend::exponential(Backend::load(at) - top);
        Backend::store(at, x);
        sum += x;
      }
      Backend::store(sums + j, sum);
      Backend::store(tops + j, top);
    });
    for (int j = 0; j < tile_rows; ++j) log_sums[j] = tops[j] + std::log(sums[j]);
  }

  static void forward(std::int64_t tokens, HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                      HeadRows<T> y, T* log_sums) {
    const std::int64_t tiles = tiles_of(tokens);
    Scratch<T> scratch((2 * tiles + 3) * rows_size + tiles * tile_size + 2 * tile_rows);
    T *keys = scratch.take(tiles * rows_size), *values = scratch.take(tiles * rows_size);
    T *rows = scratch.take(rows_size), *queries = scratch.take(rows_size), *out = scratch.take(rows_size);
    T *scores = scratch.take(tiles * tile_size), *sums = scratch.take(tile_rows),
      *logs = scratch.take(tile_rows);
    load_all(k, tokens, keys);
    load_all(v, tokens, values);
    for (std::int64_t i = 0; i < tiles; ++i) {
      const std::int64_t first = i * tile_rows;
      load_rows(q, first, tokens, T(1) / std::sqrt(T(N)), rows);
      Backend::transpose(Transposed{queries}, Rows{rows});
      for (std::int64_t j = 0; j <= i; ++j)
        Backend::product(Scores{scores + j * tile_size}, Rows{keys + j * rows_size}, Transposed{queries});
      fill_later_keys(scores + i * tile_size, T(-1e30));
      exponentials(scores, first + tile_rows, sums, logs);
      fill_later_keys(scores + i * tile_size, T(0));
      Backend::product(Rows{out}, Scores{scores}.transposed(), Rows{values});
      for (std::int64_t j = 1; j <= i; ++j)
        Backend::add_product(Rows{out}, Scores{scores + j * tile_size}.transposed(),
                             Rows{values + j * rows_size});
      for (int r = 0; r < tile_rows; ++r)
        for (int n = 0; n < N; ++n) out[r * N + n] /= sums[r];
      store_rows(out, first, tokens, y);
      std::copy(logs, logs + std::min<std::int64_t>(tile_rows, tokens - first), log_sums + first);
    }
  }

  // ---------------------------------------------------------------- backward ----

  // One tile of queries: rows of q / sqrt(N) and dY, both also transposed, and per query the logarithm of its
  // sum and y . dY.
  struct Queries {
    T *rows, *transposed, *d_rows, *d_transposed, *log_sums, *along;

    explicit Queries(Scratch<T>& scratch)
        : rows(scratch.take(rows_size)),
          transposed(scratch.take(rows_size)),
          d_rows(scratch.take(rows_size)),
          d_transposed(scratch.take(rows_size)),
          log_sums(scratch.take(tile_rows)),
          along(scratch.take(tile_rows)) {}

    void load(const QueryHead<T>& head, std::int64_t first, std::int64_t tokens) const {
      load_rows(head.y, first, tokens, T(1), transposed);
      load_rows(head.d_y, first, tokens, T(1), d_rows);
      for (int r = 0; r < tile_rows; ++r) {
        along[r] = lane_sum<T>(N, [&](std::int64_t n) { return transposed[r * N + n] * d_rows[r * N + n]; });
        log_sums[r] = first + r < tokens ? head.log_sums[first + r] : T(0);
      }
      load_rows(head.q, first, tokens, T(1) / std::sqrt(T(N)), rows);
      Backend::transpose(Transposed{transposed}, Rows{rows});
      Backend::transpose(Transposed{d_transposed}, Rows{d_rows});
    }
  };

  // In place of scores their softmax P, in place of dP the gradient of the scores, P (dP - y . dY).
  static void differentiate(T* scores, T* slopes, const Queries& queries) {
    const T *log_sums = queries.log_sums, *along = queries.along;
    Backend::template columns<tile_rows>([=](int j) WUNENG_LANES {
      const Value log_sum = Backend::load(log_sums + j), shift = Backend::load(along + j);
      for (int k = 0; k < tile_rows; ++k) {
        const int at = k * tile_rows + j;
        const Value p = Backend::exponential(Backend::load(scores + at) - log_sum);
        Backend::store(scores + at, p);
        Backend::store(slopes + at, p * (Backend::load(slopes + at) - shift));
      }
    });
  }

  static void backward(std::int64_t tokens, const QueryHead<T>* heads, std::int64_t count,
                       HeadRows<const T> k, HeadRows<const T> v, HeadRows<T> d_k, HeadRows<T> d_v) {
    const std::int64_t tiles = tiles_of(tokens), all = tiles * rows_size;
    Scratch<T> scratch(4 * all + 5 * rows_size + 2 * tile_size + 2 * tile_rows);
    T *keys = scratch.take(all), *values = scratch.take(all);
    T *d_keys = scratch.take(all), *d_values = scratch.take(all);  // begin as zeros
    T *scores = scratch.take(tile_size), *slopes = scratch.take(tile_size),
      *d_queries = scratch.take(rows_size);
    const Queries queries(scratch);
    load_all(k, tokens, keys);
    load_all(v, tokens, values);
    for (const QueryHead<T>* head = heads; head < heads + count; ++head)
      for (std::int64_t i = 0; i < tiles; ++i) {
        queries.load(*head, i * tile_rows, tokens);
        std::fill(d_queries, d_queries + rows_size, T(0));
        for (std::int64_t j = 0; j <= i; ++j) {
          const std::int64_t at = j * rows_size;
          Backend::product(Scores{scores}, Rows{keys + at}, Transposed{queries.transposed});
          Backend::product(Scores{slopes}, Rows{values + at}, Transposed{queries.d_transposed});
          differentiate(scores, slopes, queries);
          if (j == i) fill_later_keys(scores, T(0));
          if (j == i) fill_later_keys(slopes, T(0));
          Backend::add_product(Rows{d_values + at}, Scores{scores}, Rows{queries.d_rows});
          Backend::add_product(Rows{d_keys + at}, Scores{slopes}, Rows{queries.rows});
          Backend::add_product(Rows{d_queries}, Scores{slopes}.transposed(), Rows{keys + at});
        }
        for (int n = 0; n < rows_size; ++n) d_queries[n] /= std::sqrt(T(N));
        store_rows(d_queries, i * tile_rows, tokens, head->d_q);
      }
    for (std::int64_t j = 0; j < tiles; ++j) {
      store_rows(d_keys + j * rows_size, j * tile_rows, tokens, d_k);
      store_rows(d_values + j * rows_size, j * tile_rows, tokens, d_v);
    }
  }
};

WUNENG_TILE_BACKEND(PortableTiles, , 16, 16)
#if defined(__x86_64__)
WUNENG_TILE_BACKEND(Avx2Tiles, __attribute__((target("arch=x86-64-v3"))), 32, 16)
WUNENG_TILE_BACKEND(Avx512Tiles, __attribute__((target("arch=x86-64-v4,prefer-vector-width=512"))), 64, 32)
#endif

template <class Backend, class Work>
void for_size(std::int64_t N, const Work& work) {
  if (N == 32) return work(Attention<Backend, 32>());
  if (N == 64) return work(Attention<Backend, 64>());
  work(Attention<Backend, 128>());
}

// work(Attention of this machine's vector unit and of heads of N).
template <class T, class Work>
void dispatch(std::int64_t N, const Work& work) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("x86-64-v4")) return for_size<Avx512Tiles<T>>(N, work);
  if (__builtin_cpu_supports("x86-64-v3")) return for_size<Avx2Tiles<T>>(N, work);
#endif
  for_size<PortableTiles<T>>(N, work);
}

}  // namespace

template <class T>
void attention_forward_cpu(HeadSizes sizes, HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                           HeadRows<T> y, T* log_sums) {
  dispatch<T>(sizes.N, [&](auto attention) { attention.forward(sizes.tokens, q, k, v, y, log_sums); });
}

template <class T>
void attention_backward_cpu(HeadSizes sizes, const QueryHead<T>* heads, std::int64_t count,
                            HeadRows<const T> k, HeadRows<const T> v, HeadRows<T> d_k, HeadRows<T> d_v) {
  dispatch<T>(sizes.N,
              [&](auto attention) { attention.backward(sizes.tokens, heads, count, k, v, d_k, d_v); });
}

#define WUNENG_ATTENTION(T)                                                                               \
  template void attention_forward_cpu(HeadSizes, HeadRows<const T>, HeadRows<const T>, HeadRows<const T>, \
                                      HeadRows<T>, T*);                                                   \
  template void attention_backward_cpu(HeadSizes, const QueryHead<T>*, std::int64_t, HeadRows<const T>,   \
                                       HeadRows<const T>, HeadRows<T>, HeadRows<T>);
WUNENG_ATTENTION(float)
WUNENG_ATTENTION(double)
#undef WUNENG_ATTENTION

}  // namespace wuneng::kernels
