// The emulated multiprocessor: one block at a time, its lanes as fibers. Internal to the emulator.
#pragma once

#include <bit>
#include <cstdint>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "kernels/device/cuda_words.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/fibers.h"

namespace wuneng::emulator {

constexpr int warp_lanes = 32;
constexpr std::uint32_t all_lanes = 0xffffffffu;

enum class Primitive : std::uint8_t {
  none,
  sync_block,
  sync_warp,
  shuffle_xor,
  shuffle_down,
  shuffle_up,
  shuffle,
  load_matrix_x4,
  load_matrix_x4_transposed,
  mma_bf16,
  copy_async_16,
  copy_async_wait,
  shared_memory,
  exit,
};
const char* name(Primitive primitive);

// splitmix64: small, and the same on every machine.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t operator()() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

struct Copy {
  std::byte* shared;
  const std::byte* global;  // null: zeros
  std::int64_t group;
};

struct Lane {
  Fiber fiber;
  std::vector<Copy> copies;     // under way, oldest first
  std::int64_t open_group = 0;  // that of the next copy
};

// Every lane is in exactly one of: ready (the running one included), arrived, at_barrier, exited.
struct Warp {
  std::uint32_t ready = 0, arrived = 0, at_barrier = 0, exited = 0;
  Primitive collective = Primitive::none;  // what the arrived lanes wait in
  void* operands[warp_lanes] = {};
};

// How a block chooses who runs next.
struct Policy {
  enum Leave { when_blocked, now_and_then, always } leave;
  bool fixed_priority;
  unsigned priority;  // the favoured warp, when fixed
};

class Machine {
 public:
  Machine(const Launch& launch, const Options& options, const std::function<void()>& lane);
  ~Machine();
  Statistics run();

  // ---- for the primitives, called by the running lane ----
  static Machine& running();  // throws outside of a launch
  int thread() const { return thread_; }
  int lane() const { return thread_ % warp_lanes; }
  int warp() const { return thread_ / warp_lanes; }
  Lane& self() { return lanes_[thread_]; }
  Statistics& statistics() { return statistics_; }
  std::byte* shared() const { return shared_; }
  std::size_t shared_bytes() const { return launch_.shared_bytes; }
  bool in_shared(const void* address, std::size_t bytes) const;

  // A rendezvous of the warp: the last lane to arrive does the work for all, and runs on.
  template <class Operands, class Work>
  void collective(Primitive primitive, Operands& mine, Work work) {
    Warp& warp = arrive(primitive, &mine);
    if (warp.arrived != all_lanes) return wait();
    work([&warp](int lane) -> Operands& { return *static_cast<Operands*>(warp.operands[lane]); });
    release(warp);
  }
  void sync_block();
  // For operations that publish or finish something without waiting: others may run first.
  void maybe_yield();
  [[noreturn]] void fail(Primitive primitive, const std::string& what) const;
  // The same from where nothing may be thrown, a compiler's hook: the lane is left for good.
  [[noreturn]] void abandon(const std::string& what);

 private:
  static void lane_main();
  void run_block(unsigned index);
  void start_block(unsigned index);
  void check_canaries() const;
  Warp& arrive(Primitive primitive, void* operands);
  void release(Warp& warp);
  void complete_barrier();
  void exit_lane();
  void leave();
  void wait();
  void resume(int thread, bool ends);
  int pick();
  std::string divergence(const Warp& warp) const;

  Launch launch_;
  std::uint64_t seed_;
  const std::function<void()>& lane_;
  Random random_;
  Policy policy_{};
  std::vector<Lane> lanes_;
  std::vector<Warp> warps_;
  std::uint32_t ready_warps_ = 0;
  Fiber host_;
  bool in_host_ = true;  // the host's stack runs
  int thread_ = 0;
  int alive_ = 0, at_barrier_ = 0;
  std::int64_t block_barriers_ = 0;
  std::vector<std::byte> storage_;
  std::byte* shared_ = nullptr;
  std::exception_ptr error_;
  Statistics statistics_;
};

}  // namespace wuneng::emulator
