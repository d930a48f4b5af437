// The factors that wkv7_prepare makes, against the same ones made in double precision from the same tiles:
// scaled tiles are rounded to bf16 once, but nothing between them and the factors may be rounded that
// coarsely, for repeated tokens cancel there.
#include <gtest/gtest.h>

#include "tests/kernels/emulated/wkv7_run.h"

namespace wuneng::kernels::tests {
namespace {

constexpr int C = chunk_tokens;

// [rows][columns]
struct Matrix {
  int rows, columns;
  Values x = Values(static_cast<std::size_t>(rows) * columns, 0.0);
  double& at(int i, int j) { return x[static_cast<std::size_t>(i) * columns + j]; }
  double at(int i, int j) const { return x[static_cast<std::size_t>(i) * columns + j]; }
};

Matrix transposed(const Matrix& a) {
  Matrix b{a.columns, a.rows};
  for (int i = 0; i < b.rows; ++i)
    for (int j = 0; j < b.columns; ++j) b.at(i, j) = a.at(j, i);
  return b;
}

Matrix operator*(const Matrix& a, const Matrix& b) {
  Matrix c{a.rows, b.columns};
  for (int i = 0; i < a.rows; ++i)
    for (int k = 0; k < a.columns; ++k)
      for (int j = 0; j < b.columns; ++j) c.at(i, j) += a.at(i, k) * b.at(k, j);
  return c;
}

// Elements of tokens s <= t - distance only.
Matrix lower(Matrix a, int distance) {
  for (int t = 0; t < a.rows; ++t)
    for (int s = t - distance + 1; s < a.columns; ++s) a.at(t, s) = 0;
  return a;
}

// (I - a)^-1 for a strictly lower triangular.
Matrix inverse(const Matrix& a) {
  Matrix t{C, C};
  for (int i = 0; i < C; ++i) {
    t.at(i, i) = 1;
    for (int s = 0; s < i; ++s)
      for (int j = 0; j < C; ++j) t.at(i, j) += a.at(i, s) * t.at(s, j);
  }
  return t;
}

struct Factors {
  Matrix w, a, q, pt;
};

// Of a problem of one chunk and head.
Factors factors(const Wkv7Problem& p) {
  Matrix r{C, p.N}, a{C, p.N}, k{C, p.N}, b{C, p.N}, b_hat{C, p.N};
  for (int j = 0; j < p.N; ++j) {
    double all = 0, sum = 0;
    for (int t = 0; t < C; ++t) all += p.log_decay[t * p.N + j];
    for (int t = 0; t < C; ++t) {
      const int i = t * p.N + j;
      const auto scaled = [](double x, double log_scale) {
        const auto scale = static_cast<float>(std::exp(log_scale));
        return bf16_value(bf16_bits(static_cast<float>(x) * scale));
      };
      a.at(t, j) = scaled(p.a[i], sum);
      sum += p.log_decay[i];
      r.at(t, j) = scaled(p.r[i], sum);
      k.at(t, j) = scaled(p.k[i], -sum);
      b.at(t, j) = scaled(p.b[i], -sum);
      b_hat.at(t, j) = scaled(p.b[i], all - sum);
    }
  }
  const Matrix t = inverse(lower(a * transposed(b), 1));
  return {t * a, t * lower(a * transposed(k), 1), transposed(t) * b_hat,
          transposed(lower(r * transposed(b), 0) * t)};
}

template <bool backward>
Record<64, backward> prepared(const Wkv7Problem& p) {
  const Tables tables(p);
  const emulator::GuardedBuffer<Bf16> r(bits(p.r)), log_decay(bits(p.log_decay)), k(bits(p.k)), a(bits(p.a)),
      b(bits(p.b));
  emulator::GuardedBuffer<Record<64, backward>> record(1);
  launch_prepare<64, backward>(
      EmulatedLaunch(1), {tables.chunks, p.H, as_bf16(r.data()), as_bf16(log_decay.data()), as_bf16(k.data()),
                          as_bf16(a.data()), as_bf16(b.data()), record.data()});
  return record[0];
}

template <class T>
void expect_close(T& tile, const Matrix& expected, const std::string& name, double bar) {
  Values x;
  for (int i = 0; i < T::rows; ++i)
    for (int j = 0; j < T::columns; ++j) x.push_back(bf16_value(tile.at(i, j).bits));
  const double error = error_ratio(x, expected.x);
  std::printf("%s %.1e\n", name.c_str(), error);
  EXPECT_LT(error, bar) << name;
}

TEST(Wkv7Prepare, FactorsAreExactForTheRoundedTiles) {
  constexpr double own_rounding = 1.0 / 256;  // at most, of a bf16
  for (const Kind kind : {Kind::usual, Kind::fastest_decay, Kind::no_decay, Kind::repeated, Kind::alike}) {
    const Wkv7Problem p = problem({1, C, 1, 64}, kind);
    const Factors expected = factors(p);
    auto forward = prepared<false>(p);
    auto backward = prepared<true>(p);
    // Of repeated tokens W and Q are a row that is not rounded, and almost nothing else.
    const double bar = kind == Kind::repeated || kind == Kind::alike ? 5e-4 : own_rounding;
    expect_close(forward.chain.w, expected.w, name_of(kind) + ": W", bar);
    expect_close(backward.gradient.w, expected.w, name_of(kind) + ": backward W", bar);
    expect_close(backward.chain.w, expected.q, name_of(kind) + ": Q", bar);
    expect_close(forward.chain.a, expected.a, name_of(kind) + ": A'", own_rounding);
    expect_close(backward.gradient.a, expected.a, name_of(kind) + ": backward A'", own_rounding);
    expect_close(backward.chain.a, expected.pt, name_of(kind) + ": P^T", own_rounding);
  }
}

}  // namespace
}  // namespace wuneng::kernels::tests
