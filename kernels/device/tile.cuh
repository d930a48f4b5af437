// Matrices in the memory of a block and in the registers of a warp, and their products, so that a kernel
// reads like its equations:
//
//   Tile<rows, columns>       bf16 in shared memory
//   Block<rows, columns>      fp32 in the registers of one warp: what products are summed into
//   Fragments<rows, columns>  bf16 in the registers of one warp: a left operand
//
//   add_product<K>(u, plain(w), transposed(s));   // u += w s^T, summed over K
//
// Everything here is for whole warps. None of it orders memory: the kernel does, by sync_warp() or
// sync_block().
#pragma once

#include "kernels/device/warp.cuh"

namespace wuneng::device {

using Word __attribute__((may_alias)) = std::uint32_t;  // two bf16, the lower column in the low half

struct __attribute__((may_alias, aligned(16))) Piece {  // eight bf16
  std::uint32_t words[4];
};

WUNENG_DEVICE int lane() { return static_cast<int>(threadIdx.x % warp_size); }
WUNENG_DEVICE int warp() { return static_cast<int>(threadIdx.x / warp_size); }

// Row-major, the pieces of 16 bytes of a row permuted by an XOR with the row, such that neither eight rows of
// one piece (load_matrix) nor the pairs of a Block fall on the same banks.
template <int rows_, int columns_>
struct alignas(16) Tile {
  static constexpr int rows = rows_, columns = columns_, pieces = rows * columns / 8;
  static_assert(columns == 32 || columns == 64 || columns == 128);

  bf16 elements[rows * columns];

  // Place of (row, column); the 8 elements of a piece lie side by side.
  // (Shifts, not divisions: those of signed numbers cost more.)
  WUNENG_DEVICE static int place(int row, int column) {
    const int permutation = columns == 32 ? row >> 1 & 3 : row & 7;
    return row * columns + (column ^ permutation << 3);
  }
  WUNENG_DEVICE bf16& at(int row, int column) { return elements[place(row, column)]; }
  // Columns `column` and `column` + 1, column even.
  WUNENG_DEVICE Word& pair(int row, int column) {
    return *reinterpret_cast<Word*>(elements + place(row, column));
  }
  WUNENG_DEVICE Word pair(int row, int column) const {
    return *reinterpret_cast<const Word*>(elements + place(row, column));
  }
  WUNENG_DEVICE Piece piece(int row, int column) const {
    return *reinterpret_cast<const Piece*>(elements + place(row, column));
  }
};

// ------------------------------------------------------------------- registers ----

template <int rows, int columns>
struct Block {
  static_assert(rows % 16 == 0 && columns % 8 == 0);
  float c[rows / 16][columns / 8][4];  // 16x8 accumulators

  // Calls f(value, row, column) for every element that this lane holds.
  template <class F>
  WUNENG_DEVICE void each(F f) {
#pragma unroll
    for (int m = 0; m < rows / 16; ++m)
#pragma unroll
      for (int n = 0; n < columns / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          f(c[m][n][i], 16 * m + 8 * (i / 2) + lane() / 4, 8 * n + 2 * (lane() % 4) + i % 2);
  }
  // Calls f(first, second, row, column) for every pair of neighbouring columns, the first one even.
  template <class F>
  WUNENG_DEVICE void each_pair(F f) {
#pragma unroll
    for (int m = 0; m < rows / 16; ++m)
#pragma unroll
      for (int n = 0; n < columns / 8; ++n)
#pragma unroll
        for (int i = 0; i < 4; i += 2)
          f(c[m][n][i], c[m][n][i + 1], 16 * m + 4 * i + lane() / 4, 8 * n + 2 * (lane() % 4));
  }

  // From and to the tile's elements at (row, column) and on.
  template <class T>
  WUNENG_DEVICE void load(const T& tile, int row, int column) {
    each_pair([&](float& x, float& y, int i, int j) {
      const Word pair = tile.pair(row + i, column + j);
      x = low_half(pair), y = high_half(pair);
    });
  }
  template <class T>
  WUNENG_DEVICE void store(T& tile, int row, int column) {
    each_pair([&](float x, float y, int i, int j) { tile.pair(row + i, column + j) = pack_bf16(x, y); });
  }
};

// Columns first .. first + width - 1 of x.
template <int width, int rows, int columns>
WUNENG_DEVICE Block<rows, width> part(const Block<rows, columns>& x, int first) {
  Block<rows, width> y;
#pragma unroll
  for (int m = 0; m < rows / 16; ++m)
#pragma unroll
    for (int n = 0; n < width / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) y.c[m][n][i] = x.c[m][first / 8 + n][i];
  return y;
}

// Calls f(x, y, ...) for the corresponding elements of blocks of one size.
template <class F, class Block, class... Blocks>
WUNENG_DEVICE void elementwise(F f, Block& x, Blocks&... more) {
#pragma unroll
  for (int m = 0; m < static_cast<int>(sizeof(x.c) / sizeof(x.c[0])); ++m)
#pragma unroll
    for (int n = 0; n < static_cast<int>(sizeof(x.c[0]) / sizeof(x.c[0][0])); ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) f(x.c[m][n][i], more.c[m][n][i]...);
}

template <int rows, int columns>
struct Fragments {
  static_assert(rows % 16 == 0 && columns % 16 == 0);
  std::uint32_t a[rows / 16][columns / 16][4];

  WUNENG_DEVICE void load_left(std::uint32_t (&to)[4], int m, int k) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = a[m / 16][k / 16][i];
  }
};

// Rounds to bf16. Accumulators of two neighbouring 16x8 blocks are a left operand as they lie.
template <int rows, int columns>
WUNENG_DEVICE Fragments<rows, columns> rounded(const Block<rows, columns>& x) {
  Fragments<rows, columns> y;
#pragma unroll
  for (int m = 0; m < rows / 16; ++m)
#pragma unroll
    for (int k = 0; k < columns / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float(&c)[4] = x.c[m][2 * k + i / 2];
        y.a[m][k][i] = pack_bf16(c[2 * (i % 2)], c[2 * (i % 2) + 1]);
      }
  return y;
}

// -------------------------------------------------------------------- products ----

// A tile, or its transpose, from the given place of the tile on, as an operand of a product.
template <class T, bool transpose>
struct View {
  const T& tile;
  int row, column;  // in the tile as it is stored

  // The left operand's 16x16 block at (m, k).
  WUNENG_DEVICE void load_left(std::uint32_t (&a)[4], int m, int k) const {
    const int l = lane();
    if constexpr (transpose)
      load_matrix_x4_transposed(a, from(k + (l & 7) + (l & 16) / 2, m + (l & 8)));
    else
      load_matrix_x4(a, from(m + (l & 15), k + (l & 16) / 2));
  }
  // The right operand's 16x16 block at (k, n): two registers for columns n .. n+7, two for n+8 .. n+15.
  WUNENG_DEVICE void load_right(std::uint32_t (&b)[4], int k, int n) const {
    const int l = lane();
    if constexpr (transpose)
      load_matrix_x4(b, from(n + (l & 7) + (l & 16) / 2, k + (l & 8)));
    else
      load_matrix_x4_transposed(b, from(k + (l & 15), n + (l & 16) / 2));
  }

 private:
  WUNENG_DEVICE const bf16* from(int i, int j) const { return tile.elements + T::place(row + i, column + j); }
};

template <class T>
WUNENG_DEVICE View<T, false> plain(const T& tile, int row = 0, int column = 0) {
  return {tile, row, column};
}
template <class T>
WUNENG_DEVICE View<T, true> transposed(const T& tile, int row = 0, int column = 0) {
  return {tile, row, column};
}

// A left operand held in registers, for products that share it.
template <int rows, int columns, class Left>
WUNENG_DEVICE Fragments<rows, columns> fragments(const Left& left) {
  Fragments<rows, columns> x;
#pragma unroll
  for (int m = 0; m < rows; m += 16)
#pragma unroll
    for (int k = 0; k < columns; k += 16) left.load_left(x.a[m / 16][k / 16], m, k);
  return x;
}

// sum += left right, over K columns of left and rows of right.
template <int K, int rows, int columns, class Left, class Right>
WUNENG_DEVICE void add_product(Block<rows, columns>& sum, const Left& left, const Right& right) {
  static_assert(K % 16 == 0 && columns % 16 == 0);
#pragma unroll
  for (int k = 0; k < K; k += 16) {
    std::uint32_t a[rows / 16][4];
#pragma unroll
    for (int m = 0; m < rows / 16; ++m) left.load_left(a[m], 16 * m, k);
#pragma unroll
    for (int n = 0; n < columns; n += 16) {
      std::uint32_t b[4];
      right.load_right(b, k, n);
#pragma unroll
      for (int m = 0; m < rows / 16; ++m) {
        mma_bf16(sum.c[m][n / 8], a[m], b[0], b[1]);
        mma_bf16(sum.c[m][n / 8 + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// ---------------------------------------------------------------------- copies ----
// By all `threads` of a block. Global rows lie `stride` elements apart; the caller waits and synchronises.

// Calls f(i) for i < count, shared out over the threads, of which this is number `thread`.
template <int count, int threads, class F>
WUNENG_DEVICE void share_out(int thread, F f) {
#pragma unroll
  for (int first = 0; first < count; first += threads)
    if (first + threads <= count || first + thread < count) f(first + thread);
}

// Starts the copy of `length` rows; the tile's other rows become zero.
template <int threads, class T>
WUNENG_DEVICE void start_copy(T& tile, const bf16* global, std::int64_t stride, int length = T::rows) {
  share_out<T::pieces, threads>(threadIdx.x, [&](unsigned i) {
    const int row = i / (T::columns / 8), column = i % (T::columns / 8) * 8;
    const bool valid = row < length;
    copy_async_16(tile.elements + T::place(row, column), global + (valid ? row * stride : 0) + column, valid);
  });
}

// Starts the copy of a whole struct that lies in global memory as it does in shared memory.
template <int threads, class T>
WUNENG_DEVICE void start_copy(T& shared, const T* global) {
  static_assert(sizeof(T) % sizeof(Piece) == 0);
  share_out<sizeof(T) / sizeof(Piece), threads>(threadIdx.x, [&](unsigned i) {
    copy_async_16(reinterpret_cast<Piece*>(&shared) + i, reinterpret_cast<const Piece*>(global) + i, true);
  });
}

// Such a struct back to global memory.
template <int threads, class T>
WUNENG_DEVICE void store(const T& shared, T* global) {
  static_assert(sizeof(T) % sizeof(Piece) == 0);
  share_out<sizeof(T) / sizeof(Piece), threads>(threadIdx.x, [&](unsigned i) {
    reinterpret_cast<Piece*>(global)[i] = reinterpret_cast<const Piece*>(&shared)[i];
  });
}

// The first `length` rows of a tile, and of these `width` columns from `column` on, to global rows; by
// `threads` threads, of which this is number `thread`.
template <int threads, int width, class T>
WUNENG_DEVICE void store_rows(const T& tile, int column, bf16* global, std::int64_t stride, int length,
                              int thread) {
  share_out<T::rows * width / 8, threads>(thread, [&](unsigned i) {
    const int row = i / (width / 8), c = i % (width / 8) * 8;
    if (row < length) *reinterpret_cast<Piece*>(global + row * stride + c) = tile.piece(row, column + c);
  });
}

}  // namespace wuneng::device
