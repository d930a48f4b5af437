// The backend of chunk.h for the vector unit: small matrix products whose shapes the compiler knows, a tile
// of the result in registers at a time. One backend per instruction set; the functions here are inlined into
// it.
#pragma once

#include "kernels/wkv7/chunk.h"
#include "kernels/wkv7/vector.h"

namespace wuneng::kernels::tile {

using chunk::Shape;

enum class Start { zero, sum };  // what a product is added to: nothing, or the result's old value

// `rows` x `vectors` vectors of c += a b over k in [begin, end), kept in registers. a(0, 0), b(0, 0) and c
// are where the tile begins.
template <int lanes, int rows, int vectors, class V, class A, class B>
WUNENG_INLINE void accumulate(V (&sum)[rows][vectors], const A& a, const B& b, int begin, int end) {
#pragma GCC unroll 4
  for (int k = begin; k < end; ++k) {
    V right[vectors];
    for (int j = 0; j < vectors; ++j) right[j] = load<lanes>(&b(k, j * lanes));
    for (int i = 0; i < rows; ++i)
      for (int j = 0; j < vectors; ++j) sum[i][j] += right[j] * a(i, k);
  }
}

// Rows [row, row + rows) of columns [column, column + vectors * lanes) of c = [c0 +] a b. A triangular `a` of
// blocks of `block` columns is read where it may differ from zero.
template <class T, int lanes, int rows, int vectors, Start start, Shape shape, int block, class C, class C0,
          class A, class B, class Finish>
WUNENG_INLINE void tile(const C& c, const C0& c0, const A& a, const B& b, int row, int column,
                        Finish finish) {
  using V = Vector<T, lanes>;
  V sum[rows][vectors];
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < vectors; ++j)
      sum[i][j] = start == Start::zero ? V{} : load<lanes>(&c0(row + i, column + j * lanes));
  const auto left = a.template block<rows, A::columns>(row, 0);
  const auto right = b.template block<B::rows, vectors * lanes>(0, column);
  if constexpr (shape == Shape::full) {
    accumulate<lanes, rows, vectors>(sum, left, right, 0, A::columns);
  } else {
    const int first = shape == Shape::upper ? row % block : 0,
              last = shape == Shape::upper ? block : row % block + rows;
    for (int at = 0; at < A::columns; at += block)
      accumulate<lanes, rows, vectors>(sum, left, right, at + first, at + last);
  }
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < vectors; ++j)
      store<lanes>(&c(row + i, column + j * lanes), finish(sum[i][j], column + j * lanes));
}

// c = finish([c0 +] a b), with as many sums at once as the registers hold: strips of columns, in each strips
// of rows, the first few one row higher than the rest.
template <class T, int lanes, int registers, Start start, Shape shape, int block, class C, class C0, class A,
          class B, class Finish>
WUNENG_INLINE void product(const C& c, const C0& c0, const A& a, const B& b, Finish finish) {
  static_assert(A::rows == C::rows && B::columns == C::columns && A::columns == B::rows);
  static_assert(C::columns % lanes == 0 && C::column_step == 1 && B::column_step == 1);
  constexpr int sums = registers - registers / 4, parts = C::columns / lanes;
  constexpr int vectors = parts % (registers / 8) == 0 ? registers / 8 : parts % 2 == 0 ? 2 : 1;
  constexpr int group = shape == Shape::full ? C::rows : block;  // a strip lies in one block
  constexpr int strips = (group * vectors + sums - 1) / sums, rows = group / strips, higher = group % strips;
  for (int column = 0; column < C::columns; column += vectors * lanes)
    for (int first = 0; first < C::rows; first += group) {
      int row = first;
      if constexpr (higher > 0)
        for (; row < first + higher * (rows + 1); row += rows + 1)
          tile<T, lanes, rows + 1, vectors, start, shape, block>(c, c0, a, b, row, column, finish);
      for (; row < first + group; row += rows)
        tile<T, lanes, rows, vectors, start, shape, block>(c, c0, a, b, row, column, finish);
    }
}

template <class T, int lanes, class To, class From>
WUNENG_INLINE void transpose(const To& to, const From& from) {
  static_assert(To::rows % lanes == 0 && To::columns % lanes == 0);
  for (int i = 0; i < To::columns; i += lanes)
    for (int j = 0; j < To::rows; j += lanes) {
      Vector<T, lanes> rows[lanes];
      for (int r = 0; r < lanes; ++r) rows[r] = load<lanes>(&from(i + r, j));
      transpose_lanes<T, lanes>(rows);
      for (int r = 0; r < lanes; ++r) store<lanes>(&to(j + r, i), rows[r]);
    }
}

// Zeros below the diagonal and, unless it is to stay, on it.
template <class T, bool diagonal, class M>
WUNENG_INLINE void keep_upper(const M& m) {
  for (int i = 0; i < M::rows; ++i)
    for (int j = 0; j < M::columns; ++j) m(i, j) = (diagonal ? i <= j : i < j) ? m(i, j) : T(0);
}

}  // namespace wuneng::kernels::tile

// Defines the backend `name`<T> whose functions are compiled with `attributes` for vectors of `bytes` bytes
// and `registers` of them.
#define WUNENG_TILE_BACKEND(name, attributes, bytes, registers)                                        \
  template <class T>                                                                                   \
  struct name {                                                                                        \
    static constexpr int lanes = bytes / sizeof(T);                                                    \
    using Element = T;                                                                                 \
    using Value = Vector<T, lanes>;                                                                    \
    static WUNENG_INLINE Value load(const T* from) { return kernels::load<lanes>(from); }              \
    static WUNENG_INLINE void store(T* to, Value x) { kernels::store<lanes>(to, x); }                  \
    template <int rows, int n, class Entry>                                                            \
    static void prefetch(Entry* from, std::int64_t stride) {                                           \
      for (int i = 0; i < rows; ++i)                                                                   \
        for (int j = 0; j < n; j += 64 / sizeof(T)) __builtin_prefetch(from + i * stride + j);         \
    }                                                                                                  \
    static WUNENG_INLINE Value exponential(Value x) { return exponential_lanes<lanes>(x); }            \
                                                                                                       \
    template <int n, class Column>                                                                     \
    attributes static void columns(Column column) {                                                    \
      for (int j = 0; j < n; j += lanes) column(j);                                                    \
    }                                                                                                  \
    template <chunk::Shape shape = chunk::Shape::full, int block = 1, class C, class A, class B>       \
    attributes static void product(C c, A a, B b) {                                                    \
      tile::product<T, lanes, registers, tile::Start::zero, shape, block>(                             \
          c, c, a, b, [](Value x, int) WUNENG_LANES { return x; });                                    \
    }                                                                                                  \
    template <chunk::Shape shape = chunk::Shape::full, int block = 1, class C, class A, class B>       \
    attributes static void add_product(C c, A a, B b) {                                                \
      tile::product<T, lanes, registers, tile::Start::sum, shape, block>(                              \
          c, c, a, b, [](Value x, int) WUNENG_LANES { return x; });                                    \
    }                                                                                                  \
    template <class C, class C0, class A, class B>                                                     \
    attributes static void add_product_scaled(C c, C0 c0, A a, B b, const T* scale) {                  \
      tile::product<T, lanes, registers, tile::Start::sum, chunk::Shape::full, 1>(                     \
          c, c0, a, b,                                                                                 \
          [=](Value x, int column) WUNENG_LANES { return x * kernels::load<lanes>(scale + column); }); \
    }                                                                                                  \
    template <class To, class From>                                                                    \
    attributes static void transpose(To to, From from) {                                               \
      tile::transpose<T, lanes>(to, from);                                                             \
    }                                                                                                  \
    template <bool diagonal, class M>                                                                  \
    attributes static void keep_upper(M m) {                                                           \
      tile::keep_upper<T, diagonal>(m);                                                                \
    }                                                                                                  \
  };
