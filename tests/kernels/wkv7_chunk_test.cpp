// The chunked algorithm of kernels/wkv7/chunk.h against the recurrence in double: over plain loops, which is
// the proof of the algorithm; over vectors of every width, which is the proof of the CPU's products; and
// through the CPU's launchers.
#include "kernels/wkv7/chunk.h"

#include <gtest/gtest.h>

#include <memory>

#include "kernels/wkv7/cpu.h"
#include "kernels/wkv7/tile_cpu.h"
#include "tests/kernels/emulated/wkv7_problems.h"

namespace wuneng::kernels::tests {
namespace {

// ------------------------------------------------------------------ backends ----

// As plain as can be. Triangular factors are read in full: what lies beyond the diagonal must be zero.
template <class T>
struct PlainTiles {
  using Element = T;
  using Value = T;
  static T load(const T* from) { return *from; }
  static void store(T* to, T x) { *to = x; }
  static T exponential(T x) { return std::exp(x); }
  template <int rows, int n>
  static void prefetch(const T*, std::int64_t) {}
  template <int n, class Column>
  static void columns(Column column) {
    for (int j = 0; j < n; ++j) column(j);
  }
  template <chunk::Shape = chunk::Shape::full, int = 1, class C, class A, class B>
  static void add_product(C c, A a, B b) {
    for (int i = 0; i < C::rows; ++i)
      for (int j = 0; j < C::columns; ++j)
        for (int k = 0; k < A::columns; ++k) c(i, j) += a(i, k) * b(k, j);
  }
  template <chunk::Shape shape = chunk::Shape::full, int block = 1, class C, class A, class B>
  static void product(C c, A a, B b) {
    for (int i = 0; i < C::rows; ++i)
      for (int j = 0; j < C::columns; ++j) c(i, j) = 0;
    add_product(c, a, b);
  }
  template <class C, class C0, class A, class B>
  static void add_product_scaled(C c, C0 c0, A a, B b, const T* scale) {
    for (int i = 0; i < C::rows; ++i)
      for (int j = 0; j < C::columns; ++j) c(i, j) = c0(i, j);
    add_product(c, a, b);
    for (int i = 0; i < C::rows; ++i)
      for (int j = 0; j < C::columns; ++j) c(i, j) *= scale[j];
  }
  template <class To, class From>
  static void transpose(To to, From from) {
    for (int i = 0; i < To::rows; ++i)
      for (int j = 0; j < To::columns; ++j) to(i, j) = from(j, i);
  }
  template <bool diagonal, class M>
  static void keep_upper(M m) {
    for (int i = 0; i < M::rows; ++i)
      for (int j = 0; j < (diagonal ? i : i + 1); ++j) m(i, j) = 0;
  }
};

// The CPU's backend at the widths of other machines; where the instruction set lacks one, the compiler splits
// it.
}  // namespace
}  // namespace wuneng::kernels::tests
namespace wuneng::kernels {
WUNENG_TILE_BACKEND(Vectors128, , 16, 16)
WUNENG_TILE_BACKEND(Vectors512, , 64, 32)
}  // namespace wuneng::kernels
namespace wuneng::kernels::tests {
namespace {

// ------------------------------------------------------------------- running ----

constexpr double untouched = 12345.0;

// The tensors of one run in element type T, outputs between guard bands and poisoned.
template <class T>
struct Tensors {
  static constexpr std::size_t guard = 64;
  explicit Tensors(const Values& x) : storage(x.size() + 2 * guard, T(untouched)) {
    std::copy(x.begin(), x.end(), storage.begin() + guard);
  }
  explicit Tensors(std::size_t count) : Tensors(Values(count, std::numeric_limits<double>::quiet_NaN())) {}
  T* data() { return storage.size() == 2 * guard ? nullptr : storage.data() + guard; }
  Values values() const {
    for (std::size_t i = 0; i < guard; ++i)
      EXPECT_TRUE(storage[i] == T(untouched) && storage[storage.size() - 1 - i] == T(untouched))
          << "guard band";
    return {storage.begin() + guard, storage.end() - guard};
  }
  std::vector<T> storage;
};

// y, final state, the gradients of r, log_decay, k, v, a, b and of the initial state.
using Written = std::vector<Values>;

// `forward` and `backward` work on one sequence and head: (pointers to its first token ...), see the two
// below.
template <class T, class Forward, class Backward>
Written run_heads(const Wkv7Problem& p, Forward forward, Backward backward) {
  const std::size_t count = p.r.size(), square = static_cast<std::size_t>(p.N) * p.N;
  const std::size_t kept_states = static_cast<std::size_t>((p.T - 1) / 64);
  std::vector<Tensors<T>> in{Tensors<T>(p.r),
                             Tensors<T>(p.log_decay),
                             Tensors<T>(p.k),
                             Tensors<T>(p.v),
                             Tensors<T>(p.a),
                             Tensors<T>(p.b),
                             Tensors<T>(p.initial_state),
                             Tensors<T>(p.grad_y),
                             Tensors<T>(p.grad_final_state)};
  std::vector<Tensors<T>> out{Tensors<T>(count), Tensors<T>(p.H * square)};
  for (int i = 0; i < 6; ++i) out.emplace_back(count);
  out.emplace_back(p.H * square);
  Tensors<T> kept(p.H * kept_states * square);
  for (int h = 0; h < p.H; ++h) {
    const auto tokens = [&](Tensors<T>& x) { return x.data() ? x.data() + h * p.N : nullptr; };
    const auto state = [&](Tensors<T>& x) { return x.data() ? x.data() + h * square : nullptr; };
    T* kept_here = kept_states ? kept.data() + h * kept_states * square : nullptr;
    const T *x[6], *initial = state(in[6]);
    T* g[6];
    for (int i = 0; i < 6; ++i) x[i] = tokens(in[i]), g[i] = tokens(out[2 + i]);
    forward(x, initial, tokens(out[0]), state(out[1]), kept_here);
    backward(x, initial, kept_here, tokens(in[7]), state(in[8]), g, state(out[8]));
  }
  Written written;
  for (const Tensors<T>& x : out) written.push_back(x.values());
  return written;
}

template <class Backend, int N, int C>
Written run_chunks(const Wkv7Problem& p) {
  using T = typename Backend::Element;
  using Chunks = chunk::Algorithm<Backend, N, C>;
  struct alignas(64) Memory {
    typename Chunks::Span span;
    typename Chunks::ChunkWork work;
  };
  const auto memory = std::make_unique<Memory>();
  std::fill_n(reinterpret_cast<T*>(memory.get()), sizeof(Memory) / sizeof(T),
              std::numeric_limits<T>::quiet_NaN());
  const std::int64_t stride = p.H * N;
  return run_heads<T>(
      p,
      [&](auto& x, const T* initial, T* y, T* final_state, T* kept) {
        Chunks::forward_sequence({x[0], x[1], x[2], x[3], x[4], x[5]}, stride, p.T, initial, y, final_state,
                                 kept, memory->span.chunks[0], memory->work);
      },
      [&](auto& x, const T* initial, const T* kept, const T* dy, const T* ds, auto& g, T* d_initial) {
        Chunks::backward_sequence({x[0], x[1], x[2], x[3], x[4], x[5]}, stride, p.T, initial, kept, dy, ds,
                                  {g[0], g[1], g[2], g[3], g[4], g[5]}, d_initial, memory->span,
                                  memory->work);
      });
}

// `parts` calls share the value channels of a forward pass.
template <class T>
Written run_launchers(const Wkv7Problem& p, int parts = 1) {
  const Wkv7Sizes sizes{p.T, p.H, p.N};
  return run_heads<T>(
      p,
      [&](auto& x, const T* initial, T* y, T* final_state, T* kept) {
        for (int i = 0; i < parts; ++i)
          wkv7_forward_cpu({x[0], x[1], x[2], x[3], x[4], x[5], initial}, sizes, i * p.N / parts,
                           (i + 1) * p.N / parts, y, final_state, kept);
      },
      [&](auto& x, const T* initial, const T* kept, const T* dy, const T* ds, auto& g, T* d_initial) {
        wkv7_backward_cpu({x[0], x[1], x[2], x[3], x[4], x[5], initial}, sizes, kept, dy, ds,
                          Wkv7GradientOutputs<T>{g[0], g[1], g[2], g[3], g[4], g[5], d_initial});
      });
}

void expect_reference(const Wkv7Problem& p, const Written& written, double bar, const std::string& label) {
  const Wkv7Result expected = reference(p);
  const Values* values[] = {&expected.y,         &expected.final_state, &expected.r,
                            &expected.log_decay, &expected.k,           &expected.v,
                            &expected.a,         &expected.b,           &expected.initial_state};
  const char* names[] = {"y", "final state", "r", "log_decay", "k", "v", "a", "b", "initial state"};
  for (std::size_t i = 0; i < written.size(); ++i)
    EXPECT_LT(error_ratio(written[i], *values[i]), bar) << names[i] << ", " << label << ", T = " << p.T;
}

std::vector<Wkv7Problem> problems(int N, std::vector<int> lengths) {
  std::vector<Wkv7Problem> all;
  for (const int T : lengths) all.push_back(with_states(problem({1, T, 2, N})));
  all.push_back(problem({1, 20, 1, N}));  // from zero, and without a gradient of the final state
  for (const Kind kind :
       {Kind::fastest_decay, Kind::no_decay, Kind::repeated, Kind::turned, Kind::no_keys, Kind::large})
    all.push_back(with_states(problem({1, 66, 1, N}, kind)));
  return all;
}

// --------------------------------------------------------------------- tests ----

// Lengths around every chunk's and span's ends.
const std::vector<int> lengths{1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 67, 128, 200};

TEST(Wkv7Chunk, IsTheRecurrenceInDouble) {
  for (const Wkv7Problem& p : problems(6, lengths)) {
    expect_reference(p, run_chunks<PlainTiles<double>, 6, 8>(p), 1e-11, "chunks of 8");
    expect_reference(p, run_chunks<PlainTiles<double>, 6, 16>(p), 1e-11, "chunks of 16");
    expect_reference(p, run_chunks<PlainTiles<double>, 6, 32>(p), 1e-11, "chunks of 32");
  }
  const Wkv7Problem wide = with_states(problem({1, 70, 1, 64}));
  expect_reference(wide, run_chunks<PlainTiles<double>, 64, 32>(wide), 1e-11, "N = 64");
}

TEST(Wkv7Chunk, IsTheRecurrenceInFloat) {
  for (const Wkv7Problem& p : problems(8, lengths)) {
    expect_reference(p, run_chunks<PlainTiles<float>, 8, 8>(p), 1e-5, "chunks of 8");
    expect_reference(p, run_chunks<PlainTiles<float>, 8, 32>(p), 1e-5, "chunks of 32");
  }
}

TEST(Wkv7Chunk, VectorsOfOtherMachines) {
  for (const Wkv7Problem& p : problems(64, {1, 17, 65})) {
    expect_reference(p, run_chunks<Vectors128<float>, 64, 8>(p), 1e-5, "4 lanes");
    expect_reference(p, run_chunks<Vectors512<float>, 64, 16>(p), 1e-5, "16 lanes");
  }
}

TEST(Wkv7Chunk, LaunchersOnTheCpu) {
  for (const int N : {64, 128})
    for (const Wkv7Problem& p : problems(N, {1, 16, 65, 130})) {
      expect_reference(p, run_launchers<double>(p), 1e-11, "double");
      expect_reference(p, run_launchers<float>(p), 1e-5, "float");
      EXPECT_EQ(run_launchers<float>(p, N / 32), run_launchers<float>(p))
          << "shares of the channels, T = " << p.T;
    }
}

// Nothing lies before the first token that its decay could act on.
TEST(Wkv7Chunk, TheFirstDecayFromAZeroStateHasNoGradient) {
  const Wkv7Problem p = problem({1, 40, 1, 64});
  const auto ratio = [](const Values& log_decay) {
    double first = 0, all = 0;
    for (std::size_t i = 0; i < log_decay.size(); ++i) {
      if (i < 64) first = std::max(first, std::abs(log_decay[i]));
      all = std::max(all, std::abs(log_decay[i]));
    }
    return first / all;
  };
  EXPECT_LT(ratio(run_launchers<double>(p)[3]), 1e-14);
  EXPECT_LT(ratio(run_launchers<float>(p)[3]), 1e-6);
}

// Without a gradient of y as with one of zeros.
TEST(Wkv7Chunk, AMissingGradientIsZero) {
  Wkv7Problem p = with_states(problem({1, 33, 1, 64}));
  p.grad_y.assign(p.grad_y.size(), 0.0);
  const Written zeros = run_launchers<float>(p);
  p.grad_y.clear();
  EXPECT_EQ(run_launchers<float>(p), zeros);
}

}  // namespace
}  // namespace wuneng::kernels::tests
