// Runs kernels written with kernels/device/warp.cuh on the CPU, lane by lane: every thread of a block is a
// fiber, the fibers are scheduled in a seeded random order, warp primitives are rendezvous of 32 lanes,
// shared memory starts as NaN, and asynchronous copies land as late as they may. One launch at a time per
// process.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>
#include <vector>

namespace wuneng::emulator {

// The three programs made of each test source (cmake/Emulation.cmake).
enum class Build {
  order,   // random order, NaN and canaries only
  shadow,  // and every load and store checked for races, bounds and uninitialised reads
  asan,    // and AddressSanitizer, alignment of plain accesses
};
Build build();

// How many seeds a test should try in this build: WUNENG_EMULATOR_SEEDS, else 4 in order and 1 elsewhere.
int seeds();

struct Grid {
  unsigned x = 1, y = 1, z = 1;
};

struct Options {
  std::uint64_t seed = 1;  // of the order of lanes, warps and blocks
};

struct Statistics {
  std::int64_t blocks = 0;
  std::int64_t barriers = 0;            // sync_block completed, summed over blocks
  std::int64_t barriers_per_block = 0;  // the most of any block
  std::int64_t warp_barriers = 0;       // sync_warp, per warp
  std::int64_t matrix_loads = 0;        // ldmatrix.x4, per warp
  std::int64_t bank_conflicts =
      0;                      // extra passes of the matrix loads: 0 when each 8 rows lie in distinct banks
  std::int64_t products = 0;  // mma, per warp
  std::int64_t copies = 0;    // asynchronous copies of 16 bytes
};

struct Launch {
  Grid grid;
  int threads;               // per block, a multiple of 32
  std::size_t shared_bytes;  // dynamic shared memory
};

Statistics run(const Launch& launch, const Options& options, const std::function<void()>& lane);

// kernel<<<grid, threads, shared_bytes>>>(args...). Throws std::runtime_error naming block, warp, lane and
// primitive on any misuse, and in the shadow build on any finding.
template <class... Parameters, class... Args>
Statistics launch(void (*kernel)(Parameters...), Grid grid, int threads, std::size_t shared_bytes,
                  const Options& options, const Args&... args) {
  return run({grid, threads, shared_bytes}, options, [&] { kernel(args...); });
}

// Memory between two guard bands, for every tensor a kernel sees: all bytes start as 0xff (NaN in bf16 and
// fp32) and, to the shadow build, as never written. launch() fails when a guard band changed; the shadow and
// asan builds fail at the access itself. 16-byte aligned and no more, as the launchers' contract says. Values
// enter through the constructor, fill() or []; poison() before a second launch, or the first one's results
// stand in for it.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t bytes);
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  ~GuardedBytes();

  void poison();                  // as at the start
  void fill(const void* values);  // all of it, defined
  std::byte* bytes() const { return data_; }
  std::size_t byte_count() const { return bytes_; }

 private:
  std::byte* data_;
  std::size_t bytes_;
};

template <class T>
class GuardedBuffer : public GuardedBytes {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit GuardedBuffer(std::size_t count) : GuardedBytes(count * sizeof(T)) {}
  explicit GuardedBuffer(const std::vector<T>& values) : GuardedBuffer(values.size()) { fill(values.data()); }

  T* data() const { return reinterpret_cast<T*>(bytes()); }
  std::size_t size() const { return byte_count() / sizeof(T); }
  T& operator[](std::size_t i) { return data()[i]; }
  const T& operator[](std::size_t i) const { return data()[i]; }
  std::vector<T> values() const {
    std::vector<T> copy(size());
    std::copy_n(data(), size(), copy.begin());
    return copy;
  }
};

}  // namespace wuneng::emulator
