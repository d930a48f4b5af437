// Blocks: start, end, errors. The scheduler is in scheduler.cpp.
#include "tests/emulator/machine.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <stdexcept>

#include "tests/emulator/checker.h"
#include "tests/emulator/memory.h"
#include "tests/emulator/sanitizer.h"

wuneng::emulator::Index threadIdx, blockIdx, blockDim, gridDim;

namespace wuneng::emulator {
namespace {

Machine* machine;  // of the launch under way
constexpr std::size_t canary_bytes = 1024;
constexpr std::size_t shared_alignment = 1024;

void refuse(bool refused, const char* what) {
  if (refused) throw std::invalid_argument(std::string("emulator: ") + what);
}

void check_launch(const Launch& launch) {
  refuse(launch.threads <= 0 || launch.threads > 1024, "a block has 1 to 1024 threads");
  refuse(launch.threads % warp_lanes != 0, "a block has whole warps");
  refuse(launch.shared_bytes > 227 << 10, "a block has at most 227 KiB of shared memory");
  refuse(launch.grid.x == 0 || launch.grid.y == 0 || launch.grid.z == 0, "the grid is empty");
  refuse(launch.grid.x > 0x7fffffffu || launch.grid.y > 65535 || launch.grid.z > 65535,
         "the grid is too large");
}

}  // namespace

Machine& Machine::running() {
  if (machine == nullptr) throw std::logic_error("emulator: a primitive was called outside of launch()");
  return *machine;
}

Machine::Machine(const Launch& launch, const Options& options, const std::function<void()>& lane)
    : launch_(launch),
      seed_(options.seed),
      lane_(lane),
      random_(options.seed),
      lanes_(static_cast<std::size_t>(launch.threads)),
      warps_(static_cast<std::size_t>(launch.threads / warp_lanes)),
      storage_(launch.shared_bytes + 2 * canary_bytes + shared_alignment) {
  if (machine != nullptr) throw std::logic_error("emulator: launch() within a launch");
  const auto start = reinterpret_cast<std::uintptr_t>(storage_.data()) + canary_bytes;
  shared_ =
      reinterpret_cast<std::byte*>((start + shared_alignment - 1) / shared_alignment * shared_alignment);
  if (checker()) checker()->add_memory(shared_, launch.shared_bytes, canary_bytes);
  machine = this;
}

Machine::~Machine() {
  machine = nullptr;
  if (checker()) checker()->remove_memory(shared_);
  asan_unpoison(storage_.data(), storage_.size());
  if (error_)
    for (Lane& lane : lanes_) forget_frames(lane.fiber);
  for (Lane& lane : lanes_) recycle_stack(lane.fiber);
}

bool Machine::in_shared(const void* address, std::size_t bytes) const {
  const auto* p = static_cast<const std::byte*>(address);
  return p >= shared_ && p + bytes <= shared_ + launch_.shared_bytes;
}

void Machine::fail(Primitive primitive, const std::string& what) const {
  throw std::runtime_error("block (" + std::to_string(blockIdx.x) + ", " + std::to_string(blockIdx.y) + ", " +
                           std::to_string(blockIdx.z) + "), warp " + std::to_string(warp()) + ", lane " +
                           std::to_string(lane()) + ", " + name(primitive) + ": " + what + " (seed " +
                           std::to_string(seed_) + ")");
}

Statistics Machine::run() {
  const Grid& grid = launch_.grid;
  std::vector<unsigned> order(static_cast<std::size_t>(grid.x) * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
  gridDim = {grid.x, grid.y, grid.z};
  blockDim = {static_cast<unsigned>(launch_.threads), 1, 1};
  for (unsigned index : order) run_block(index);
  return statistics_;
}

void Machine::run_block(unsigned index) {
  start_block(index);
  resume(pick(), false);
  if (error_) std::rethrow_exception(error_);
  check_canaries();
  ++statistics_.blocks;
  statistics_.barriers += block_barriers_;
  statistics_.barriers_per_block = std::max(statistics_.barriers_per_block, block_barriers_);
}

void Machine::start_block(unsigned index) {
  const Grid& grid = launch_.grid;
  blockIdx = {index % grid.x, index / grid.x % grid.y, index / grid.x / grid.y};
  asan_unpoison(storage_.data(), storage_.size());
  fill_band(shared_ - canary_bytes, canary_bytes);
  std::memset(shared_, 0xff, launch_.shared_bytes);
  fill_band(shared_ + launch_.shared_bytes, canary_bytes);
  asan_poison(shared_ - canary_bytes, canary_bytes);
  asan_poison(shared_ + launch_.shared_bytes, canary_bytes);
  for (Lane& lane : lanes_) {
    lane.copies.clear();
    lane.open_group = 0;
    start_fiber(lane.fiber, lane_main);
  }
  for (Warp& warp : warps_) warp = {.ready = all_lanes};
  ready_warps_ = all_lanes >> (32 - warps_.size());
  policy_ = {static_cast<Policy::Leave>(random_() % 3), random_() % 2 == 0,
             static_cast<unsigned>(random_() % 32)};
  alive_ = launch_.threads;
  at_barrier_ = 0;
  block_barriers_ = 0;
  if (checker()) {
    checker()->set_memory(shared_, true);
    checker()->begin_block(launch_.threads);
  }
}

void Machine::check_canaries() const {
  asan_unpoison(storage_.data(), storage_.size());
  const std::byte *start = shared_, *end = shared_ + launch_.shared_bytes;
  if (const auto* past = changed_band(end, canary_bytes))
    fail(Primitive::exit, "shared memory was written " + std::to_string(past - end) + " bytes past its end");
  if (const auto* before = changed_band(start - canary_bytes, canary_bytes))
    fail(Primitive::exit,
         "shared memory was written " + std::to_string(start - before) + " bytes before its start");
}

Statistics run(const Launch& launch, const Options& options, const std::function<void()>& lane) {
  check_launch(launch);
  Machine m(launch, options, lane);
  if (checker()) checker()->begin_launch();
  Statistics statistics;
  std::string problem;
  try {
    statistics = m.run();
    problem = changed_guard();
  } catch (const std::exception& e) {
    problem = e.what();
  }
  if (checker()) {
    checker()->end_launch();
    const std::string findings = checker()->findings();
    if (!findings.empty()) problem += (problem.empty() ? "" : "\n") + findings;
  }
  if (!problem.empty()) throw std::runtime_error("emulator: " + problem);
  return statistics;
}

const char* name(Primitive primitive) {
  static constexpr const char* names[] = {"none",
                                          "sync_block",
                                          "sync_warp",
                                          "shuffle_xor",
                                          "shuffle_down",
                                          "shuffle_up",
                                          "shuffle",
                                          "load_matrix_x4",
                                          "load_matrix_x4_transposed",
                                          "mma_bf16",
                                          "copy_async_16",
                                          "copy_async_wait",
                                          "shared_memory",
                                          "exit"};
  return names[static_cast<int>(primitive)];
}

}  // namespace wuneng::emulator
