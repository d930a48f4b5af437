// The bf16 kernels of WKV-7 on the emulator: a forward and a backward pass with everything that the launchers
// of kernels/wkv7/cuda.h take.
#pragma once

#include <map>

#include "kernels/wkv7/passes.cuh"
#include "tests/emulator/emulator.h"
#include "tests/kernels/emulated/wkv7_problems.h"

namespace wuneng::kernels::tests {

// All that the kernels wrote, bit for bit.
struct Wkv7Bits {
  std::vector<Bf16> y, r, log_decay, k, v, a, b;
  std::vector<float> final_state, initial_state;

  bool operator==(const Wkv7Bits&) const = default;
};

inline std::vector<Bf16> bits(const Values& x) {
  std::vector<Bf16> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = bf16_bits(x[i]);
  return y;
}
inline Values values(const std::vector<Bf16>& x) {
  Values y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = bf16_value(x[i]);
  return y;
}
inline Values values(const std::vector<float>& x) { return {x.begin(), x.end()}; }

inline Wkv7Result values(const Wkv7Bits& x) {
  return {values(x.y), values(x.final_state), values(x.r), values(x.log_decay),    values(x.k),
          values(x.v), values(x.a),           values(x.b), values(x.initial_state)};
}

// The tables of the launchers: as the operator makes them, without documents none.
class Tables {
 public:
  explicit Tables(const Wkv7Problem& p) : Tables(p, spans(p)) {}
  Wkv7Chunks chunks;

 private:
  Tables(const Wkv7Problem& p, const std::vector<Wkv7Span>& all)
      : chunk_table_(chunk_table(all)), sequence_table_(sequence_table(all)) {
    const bool tables = !p.starts.empty();
    chunks = {p.T, static_cast<int>(chunk_table_.size()), static_cast<int>(sequence_table_.size()),
              tables ? chunk_table_.data() : nullptr, tables ? sequence_table_.data() : nullptr};
  }
  static std::vector<Wkv7Chunk> chunk_table(const std::vector<Wkv7Span>& all) {
    std::vector<Wkv7Chunk> table;
    for (std::size_t s = 0; s < all.size(); ++s)
      for (std::int64_t t = 0; t < all[s].length; t += wkv7_chunk_tokens)
        table.push_back({all[s].first + t,
                         static_cast<int>(std::min<std::int64_t>(wkv7_chunk_tokens, all[s].length - t)),
                         static_cast<int>(s)});
    return table;
  }
  static std::vector<Wkv7SequenceChunks> sequence_table(const std::vector<Wkv7Span>& all) {
    std::vector<Wkv7SequenceChunks> table;
    int first = 0;
    for (const Wkv7Span& s : all) {
      const int count = static_cast<int>((s.length + wkv7_chunk_tokens - 1) / wkv7_chunk_tokens);
      table.push_back({s.first, s.length, first, count, s.initial, s.final, 0});
      first += count;
    }
    return table;
  }

  emulator::GuardedBuffer<Wkv7Chunk> chunk_table_;
  emulator::GuardedBuffer<Wkv7SequenceChunks> sequence_table_;
};

// Launches on the emulator and keeps what it counted, one entry a kernel.
class EmulatedLaunch {
 public:
  explicit EmulatedLaunch(std::uint64_t seed) : seed_(seed) {}

  template <class Arguments>
  int operator()(void (*kernel)(Arguments), const LaunchSize& size, const Arguments& arguments) const {
    statistics.push_back(emulator::launch(kernel, {size.grid_x, size.grid_y}, size.threads, size.shared_bytes,
                                          {.seed = seed_}, arguments));
    return 0;
  }

  mutable std::vector<emulator::Statistics> statistics;

 private:
  std::uint64_t seed_;
};

template <int N>
class Wkv7Passes {
 public:
  explicit Wkv7Passes(const Wkv7Problem& p)
      : p_(p), tables_(p), states_(static_cast<std::size_t>(tables_.chunks.chunks) * p.H * N * N) {}

  Wkv7Bits run(const EmulatedLaunch& launch) {
    Wkv7Bits out;
    Buffer<float> final_state(state_elements());
    out.y = forward(launch, final_state.data(), states_.data());
    out.final_state = final_state.values();
    backward(launch, out);
    return out;
  }

  // y of a forward pass that keeps no state.
  std::vector<Bf16> output_alone(const EmulatedLaunch& launch) { return forward(launch, nullptr, nullptr); }

 private:
  template <class T>
  using Buffer = emulator::GuardedBuffer<T>;

  // Inputs live for one pass each, as nothing may be kept but they and the states.
  struct Inputs {
    Buffer<Bf16> r, log_decay, k, v, a, b;
    Buffer<float> initial_state;
    explicit Inputs(const Wkv7Problem& p)
        : r(bits(p.r)),
          log_decay(bits(p.log_decay)),
          k(bits(p.k)),
          v(bits(p.v)),
          a(bits(p.a)),
          b(bits(p.b)),
          initial_state(std::vector<float>(p.initial_state.begin(), p.initial_state.end())) {}
    Wkv7CudaInputs<Bf16> pointers() const {
      return {r.data(),
              log_decay.data(),
              k.data(),
              v.data(),
              a.data(),
              b.data(),
              initial_state.size() ? initial_state.data() : nullptr};
    }
  };

  std::size_t state_elements() const { return static_cast<std::size_t>(state_count(p_)) * p_.H * N * N; }

  std::vector<Bf16> forward(const EmulatedLaunch& launch, float* final_state, Bf16* states) {
    const Inputs in(p_);
    Buffer<Bf16> y(p_.r.size());
    Buffer<std::byte> workspace(forward_workspace<N>(tables_.chunks, p_.H));
    forward_pass<N>(launch, tables_.chunks, p_.H, in.pointers(), y.data(), final_state, states,
                    workspace.data());
    return y.values();
  }

  void backward(const EmulatedLaunch& launch, Wkv7Bits& out) {
    const Inputs in(p_);
    const Buffer<Bf16> grad_y(bits(p_.grad_y));
    const Buffer<float> grad_final(
        std::vector<float>(p_.grad_final_state.begin(), p_.grad_final_state.end()));
    const std::size_t count = p_.r.size();
    Buffer<Bf16> r(count), log_decay(count), k(count), v(count), a(count), b(count);
    Buffer<float> initial_state(std::vector<float>(state_elements(), 0));  // by contract of the launcher
    Buffer<std::byte> workspace(backward_workspace<N>(tables_.chunks, p_.H));
    backward_pass<N>(
        launch, tables_.chunks, p_.H, in.pointers(), states_.data(), grad_y.data(),
        grad_final.size() ? grad_final.data() : nullptr,
        {r.data(), log_decay.data(), k.data(), v.data(), a.data(), b.data(), initial_state.data()},
        workspace.data());
    out.r = r.values(), out.log_decay = log_decay.values(), out.k = k.values(), out.v = v.values();
    out.a = a.values(), out.b = b.values(), out.initial_state = initial_state.values();
  }

  const Wkv7Problem& p_;
  const Tables tables_;
  Buffer<Bf16> states_;
};

inline Wkv7Bits run(const Wkv7Problem& p, const EmulatedLaunch& launch) {
  return p.N == 64 ? Wkv7Passes<64>(p).run(launch) : Wkv7Passes<128>(p).run(launch);
}
inline Wkv7Bits run(const Wkv7Problem& p, std::uint64_t seed = 1) { return run(p, EmulatedLaunch(seed)); }

}  // namespace wuneng::kernels::tests
