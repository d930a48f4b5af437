// The float32 kernels of WKV-7 (kernels/wkv7/fp32.cuh) on the emulator, against the recurrence in double.
#include "kernels/wkv7/fp32.cuh"

#include <gtest/gtest.h>

#include <map>

#include "tests/emulator/emulator.h"
#include "tests/kernels/emulated/wkv7_problems.h"

namespace wuneng::kernels::tests {
namespace {

using emulator::GuardedBuffer;
using Floats = std::vector<float>;

Floats floats(const Values& x) { return {x.begin(), x.end()}; }

// All that the two kernels wrote: y, final state, the gradients of r, log_decay, k, v, a, b and the initial
// state.
using Written = std::vector<Floats>;

struct Launch {
  std::uint64_t seed = 1;
  unsigned blocks = 64;  // at most
};

template <int N>
class Passes {
 public:
  Passes(const Wkv7Problem& p, const Launch& launch)
      : p_(p), launch_(launch), table_(sequence_table(p)), kept_(kept_states(p) * p.H * N * N) {
    chunks_ = {p.T, 0, static_cast<int>(table_.size()), nullptr, p.starts.empty() ? nullptr : table_.data()};
  }

  Written run() {
    Written out = forward();
    for (Floats& gradient : backward()) out.push_back(std::move(gradient));
    return out;
  }

 private:
  static std::vector<Wkv7SequenceChunks> sequence_table(const Wkv7Problem& p) {
    std::vector<Wkv7SequenceChunks> table;
    std::int64_t kept = 0;
    for (const Wkv7Span& s : spans(p)) {
      table.push_back({s.first, s.length, 0, 0, s.initial, s.final, kept});
      kept += (s.length - 1) / 64;
    }
    return table;
  }
  static std::size_t kept_states(const Wkv7Problem& p) {
    std::size_t kept = 0;
    for (const Wkv7Span& s : spans(p)) kept += static_cast<std::size_t>((s.length - 1) / 64);
    return kept;
  }
  std::size_t state_elements() const { return static_cast<std::size_t>(state_count(p_)) * p_.H * N * N; }

  // Fresh for each pass, as nothing may be kept between them but the kept states.
  struct Inputs {
    GuardedBuffer<float> r, log_decay, k, v, a, b, initial_state;
    explicit Inputs(const Wkv7Problem& p)
        : r(floats(p.r)),
          log_decay(floats(p.log_decay)),
          k(floats(p.k)),
          v(floats(p.v)),
          a(floats(p.a)),
          b(floats(p.b)),
          initial_state(floats(p.initial_state)) {}
    Wkv7CudaInputs<float> pointers() const {
      return {r.data(), log_decay.data(), k.data(), v.data(), a.data(), b.data(), or_null(initial_state)};
    }
  };
  static float* or_null(const GuardedBuffer<float>& x) { return x.size() ? x.data() : nullptr; }

  template <class Kernel, class... Args>
  void launch(Kernel kernel, const Args&... args) const {
    const unsigned blocks = std::min(launch_.blocks, static_cast<unsigned>(chunks_.sequences * p_.H));
    const GuardedBuffer<typename Fp32Chunks<N>::Span> spans(blocks);
    emulator::launch(kernel, {blocks}, fp32_threads, sizeof(Fp32Shared<N>), {.seed = launch_.seed}, chunks_,
                     p_.H, args..., spans.data());
  }

  Written forward() const {
    const Inputs in(p_);
    const GuardedBuffer<float> y(p_.r.size()), final_state(state_elements());
    launch(wkv7_fp32_forward<N>, in.pointers(), y.data(), final_state.data(), kept_.data());
    return {y.values(), final_state.values()};
  }

  Written backward() const {
    const Inputs in(p_);
    const GuardedBuffer<float> grad_y(floats(p_.grad_y)), grad_final(floats(p_.grad_final_state));
    const std::size_t count = p_.r.size();
    const GuardedBuffer<float> r(count), w(count), k(count), v(count), a(count), b(count);
    const GuardedBuffer<float> initial(Floats(state_elements(), 0.0f));
    const Wkv7CudaGradients<float> out{r.data(), w.data(), k.data(),      v.data(),
                                       a.data(), b.data(), initial.data()};
    launch(wkv7_fp32_backward<N>, in.pointers(), static_cast<const float*>(kept_.data()),
           static_cast<const float*>(or_null(grad_y)), static_cast<const float*>(or_null(grad_final)), out);
    return {r.values(), w.values(), k.values(), v.values(), a.values(), b.values(), initial.values()};
  }

  const Wkv7Problem& p_;
  const Launch launch_;
  const GuardedBuffer<Wkv7SequenceChunks> table_;
  const GuardedBuffer<float> kept_;
  Wkv7Chunks chunks_;
};

Written run(const Wkv7Problem& p, const Launch& launch = {}) {
  return p.N == 64 ? Passes<64>(p, launch).run() : Passes<128>(p, launch).run();
}

void expect_reference(const Wkv7Problem& p, const std::string& label, const Launch& launch = {}) {
  const Wkv7Result expected = reference(p);
  const Values* values[] = {&expected.y,         &expected.final_state, &expected.r,
                            &expected.log_decay, &expected.k,           &expected.v,
                            &expected.a,         &expected.b,           &expected.initial_state};
  const char* names[] = {"y", "final state", "r", "log_decay", "k", "v", "a", "b", "initial state"};
  const Written written = run(p, launch);
  for (std::size_t i = 0; i < written.size(); ++i)
    EXPECT_LT(error_ratio({written[i].begin(), written[i].end()}, *values[i]), 1e-5)
        << names[i] << ", " << label;
}

// The checkers of the other builds need each path once.
const bool order = emulator::build() == emulator::Build::order;

TEST(Wkv7Fp32, IsTheRecurrenceAtEveryLength) {
  for (const int T : order ? std::vector{1, 7, 8, 9, 64, 65, 200} : std::vector{1, 9, 65})
    expect_reference(with_states(problem({1, T, 1, 64})), std::to_string(T));
  expect_reference(problem({2, 17, 1, 64}), "no states");
  if (emulator::build() != emulator::Build::shadow)
    expect_reference(with_states(problem({1, 130, 1, 128})), "N 128");
}

TEST(Wkv7Fp32, DocumentsAreSequencesOfTheirOwn) {
  for (const bool per_document : order ? std::vector{false, true} : std::vector{false}) {
    Wkv7Problem p = problem(order ? Shape{2, 88, 2, 64} : Shape{1, 76, 1, 64});
    p.starts = order ? std::vector<std::int64_t>{0, 1, 17, 88 + 65, 88 + 66}
                     : std::vector<std::int64_t>{0, 65, 66, 67, 75};
    p.states_per_document = per_document;
    expect_reference(with_states(p), per_document ? "states per document" : "states per row");
  }
}

TEST(Wkv7Fp32, SpecialInputs) {
  for (const Kind kind :
       {Kind::fastest_decay, Kind::no_decay, Kind::repeated, Kind::turned, Kind::no_keys, Kind::large})
    expect_reference(with_states(problem({1, 24, 1, 64}, kind)), name_of(kind));
}

TEST(Wkv7Fp32, WithoutAGradientOfYOrOfTheFinalState) {
  Wkv7Problem p = with_states(problem({1, 20, 1, 64}));
  p.grad_y.assign(p.grad_y.size(), 0.0);
  const Written zeros = run(p);
  p.grad_y.clear();
  EXPECT_EQ(run(p), zeros);
}

// Neither the order of threads and blocks nor the number of blocks that share the work changes a bit.
TEST(Wkv7Fp32, BitsDoNotDependOnTheSchedule) {
  const Wkv7Problem p = with_states(problem(order ? Shape{2, 70, 3, 64} : Shape{1, 9, 5, 64}));
  const Written first = run(p);
  for (int seed = 2; seed < 2 + emulator::seeds(); ++seed)
    EXPECT_EQ(run(p, {.seed = static_cast<std::uint64_t>(seed), .blocks = 4}), first) << seed;
}

TEST(Wkv7Fp32, HeadsDoNotMix) {
  Wkv7Problem p = with_states(problem({1, 12, 3, 64}));
  const Written before = run(p);
  for (Values* x : {&p.r, &p.k, &p.v, &p.grad_y})
    for (int t = 0; t < p.T; ++t)
      for (int j = 0; j < p.N; ++j) (*x)[static_cast<std::size_t>((t * p.H + 1) * p.N + j)] += 1;
  const Written after = run(p);
  for (const std::size_t i : {0, 2, 3, 4, 5, 6, 7})
    for (std::size_t e = 0; e < before[i].size(); ++e)
      if (e / p.N % p.H != 1) {
        ASSERT_EQ(before[i][e], after[i][e]) << "tensor " << i << ", element " << e;
      }
}

}  // namespace
}  // namespace wuneng::kernels::tests
