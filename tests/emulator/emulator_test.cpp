// The emulator's own promises: what runs, in which order, what is counted, and what its messages say.
#include "tests/emulator/emulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/device/warp.cuh"

namespace wuneng::emulator {
namespace {

using device::bf16;

// The message of the error, empty without one.
template <class Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::vector<unsigned> visited;  // what the kernels below log, in the order in which they run

__global__ void log_thread(int barriers) {
  for (int i = 0; i < barriers; ++i) device::sync_block();
  visited.push_back(((blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * blockDim.x +
                    threadIdx.x);
}

std::vector<unsigned> order(Grid grid, int threads, std::uint64_t seed) {
  visited.clear();
  launch(log_thread, grid, threads, 0, {.seed = seed}, 1);
  return visited;
}

TEST(Launch, EveryThreadOfEveryBlockRunsOnce) {
  auto seen = order({3, 2, 4}, 96, 5);
  std::sort(seen.begin(), seen.end());
  ASSERT_EQ(seen.size(), 3u * 2 * 4 * 96);
  for (unsigned i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], i);
  EXPECT_EQ(order({1}, 1024, 1).size(), 1024u);
}

TEST(Launch, TheSeedIsTheOrder) {
  std::set<std::vector<unsigned>> orders, first_blocks;
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    const auto once = order({4}, 64, seed);
    EXPECT_EQ(once, order({4}, 64, seed));
    orders.insert(once);
    first_blocks.insert({once.front() / 64});
  }
  EXPECT_EQ(orders.size(), 8u);
  EXPECT_GT(first_blocks.size(), 1u);
}

TEST(Launch, RefusesWhatNoGpuRuns) {
  const auto refused = [](Grid grid, int threads, std::size_t shared) {
    return error_of([&] { launch(log_thread, grid, threads, shared, {}, 0); });
  };
  EXPECT_TRUE(contains(refused({1}, 0, 0), "1 to 1024 threads"));
  EXPECT_TRUE(contains(refused({1}, 1056, 0), "1 to 1024 threads"));
  EXPECT_TRUE(contains(refused({1}, 48, 0), "whole warps"));
  EXPECT_TRUE(contains(refused({1}, 32, (227 << 10) + 1), "227 KiB"));
  EXPECT_TRUE(contains(refused({0}, 32, 0), "empty"));
  EXPECT_TRUE(contains(refused({1, 65536}, 32, 0), "too large"));
  EXPECT_TRUE(contains(error_of([] { device::sync_block(); }), "outside of launch()"));
}

// ------------------------------------------------------------- order of memory ----

// Warps from `first` on leave without a word; the others need no barrier of theirs.
__global__ void some_warps_leave(float* out, unsigned first) {
  if (threadIdx.x >= first * 32) return;
  device::sync_block();
  out[threadIdx.x] = 1.0f;
}

TEST(Barriers, AnExitCountsAsAnArrival) {
  const GuardedBuffer<float> out(64);
  for (int seed = 0; seed < 8; ++seed) {
    const auto statistics =
        launch(some_warps_leave, {1}, 128, 0, {.seed = static_cast<std::uint64_t>(seed)}, out.data(), 2u);
    EXPECT_EQ(statistics.barriers_per_block, 1);
  }
  EXPECT_EQ(out.values(), std::vector<float>(64, 1.0f));
}

__global__ void write_and_leave(float* out) {
  auto& shared = device::shared_memory<float[64]>();
  shared[threadIdx.x] = 1.0f;
  if (threadIdx.x >= 32) return;
  device::sync_block();
  out[threadIdx.x] = shared[threadIdx.x + 32];
}

TEST(Barriers, AnExitOrdersNothing) {
  const GuardedBuffer<float> out(32);
  const std::string error =
      error_of([&] { launch(write_and_leave, {1}, 64, 64 * sizeof(float), {}, out.data()); });
  EXPECT_EQ(contains(error, "race: read after a write"), build() == Build::shadow) << error;
}

__global__ void read_then_write(float* out, unsigned reader, unsigned writer, bool synchronised) {
  auto& shared = device::shared_memory<float[1]>();
  if (threadIdx.x == 0) shared[0] = 0.0f;
  device::sync_block();
  float x = 0.0f;
  if (threadIdx.x == reader || threadIdx.x == writer) x = shared[0];
  if (synchronised) device::sync_warp();
  if (threadIdx.x == writer) shared[0] = x + 1.0f;
  out[threadIdx.x] = x;
}

// Whichever of the two comes first, and though the writer itself reads last.
TEST(Findings, AReaderIsNotForgottenForALaterOne) {
  const GuardedBuffer<float> out(64);
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const auto races = [&](unsigned reader, unsigned writer, bool synchronised) {
      return contains(error_of([&] {
                        launch(read_then_write, {1}, 64, 4, {.seed = seed}, out.data(), reader, writer,
                               synchronised);
                      }),
                      "race: ");
    };
    EXPECT_FALSE(races(5, 5, false));
    EXPECT_EQ(races(0, 1, false), build() == Build::shadow) << "a lane of the same warp, seed " << seed;
    EXPECT_FALSE(races(0, 1, true)) << "its sync_warp orders them, seed " << seed;
    EXPECT_EQ(races(0, 32, true), build() == Build::shadow) << "of another warp, seed " << seed;
  }
}

__global__ void one_block_writes(float* tensor, float* out) {
  float x = 0.0f;
  if (threadIdx.x == 0) x = tensor[0];
  if (blockIdx.x == 0 && threadIdx.x == 0) tensor[0] = x + 1.0f;
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

TEST(Findings, BlocksHaveNoOrder) {
  const GuardedBuffer<float> tensor(std::vector<float>(1, 0.0f)), out(64);
  std::set<std::string> kinds;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const std::string error =
        error_of([&] { launch(one_block_writes, {2}, 32, 0, {.seed = seed}, tensor.data(), out.data()); });
    for (const char* kind : {"write after a read", "read after a write"})
      if (contains(error, kind)) kinds.insert(kind);
    EXPECT_EQ(contains(error, "race: "), build() == Build::shadow) << seed;
  }
  EXPECT_EQ(kinds.size(), build() == Build::shadow ? 2u : 0u);
}

// A matrix load hands a row to other lanes than the one that names it, so that even one's own store needs a
// barrier.
__global__ void own_row(std::uint32_t* out, bool synchronised) {
  auto& rows = device::shared_memory<bf16[32][8]>();
  for (int i = 0; i < 8; ++i) rows[threadIdx.x][i].bits = 0;
  device::sync_warp();
  if (threadIdx.x == 0) rows[0][0].bits = 1;
  if (synchronised) device::sync_warp();
  std::uint32_t r[4];
  device::load_matrix_x4(r, rows[threadIdx.x]);
  out[threadIdx.x] = r[0];
}

TEST(Findings, AMatrixLoadReadsForTheWholeWarp) {
  const GuardedBuffer<std::uint32_t> out(32);
  const auto error = [&](bool synchronised) {
    return error_of([&] { launch(own_row, {1}, 32, 512, {}, out.data(), synchronised); });
  };
  EXPECT_EQ(error(true), "");
  EXPECT_EQ(contains(error(false), "race: read after a write"), build() == Build::shadow);
}

__global__ void neighbour(float* out, bool synchronised) {
  auto& shared = device::shared_memory<float[32]>();
  shared[threadIdx.x] = 1.0f;  // the line before the barrier
  if (synchronised) device::sync_warp();
  out[threadIdx.x] = shared[31 - threadIdx.x];
}

TEST(Findings, NameTheKindThePlaceAndBothLines) {
  const GuardedBuffer<float> out(32);
  const auto error = [&](bool synchronised) {
    return error_of([&] { launch(neighbour, {1}, 32, 128, {}, out.data(), synchronised); });
  };
  EXPECT_EQ(error(true), "");
  std::string text = error(false);
  if (build() != Build::shadow) {
    EXPECT_EQ(text, "");  // nothing else sees it
    return;
  }
  const auto race = text.find("race: read after a write: block (0, 0, 0), thread ");
  ASSERT_NE(race, std::string::npos) << text;
  text = text.substr(race);
  EXPECT_TRUE(contains(text, " of shared memory")) << text;
  const auto line = [&](const char* start) {  // of the first such place
    const auto at = text.find(std::string("\n    ") + start);
    const auto colon = text.find("emulator_test.cpp:", at);
    return at == std::string::npos || colon == std::string::npos ? 0 : std::stoi(text.substr(colon + 18));
  };
  EXPECT_GT(line("after "), 0) << text;
  EXPECT_EQ(line("at ") - line("after "), 2) << text;  // the two lines around the barrier
}

// ------------------------------------------------------------- what is counted ----

__global__ void load_rows(std::uint32_t* out, int stride) {
  auto& shared = device::shared_memory<bf16[32 * 64]>();
  for (int i = static_cast<int>(threadIdx.x); i < 32 * 64; i += 32) shared[i].bits = 0;
  device::sync_warp();
  std::uint32_t r[4];
  device::load_matrix_x4(r, shared + static_cast<int>(threadIdx.x) * stride);
  out[threadIdx.x] = r[0] + r[1] + r[2] + r[3];
}

TEST(Statistics, BankConflictsAreExtraPasses) {
  const GuardedBuffer<std::uint32_t> out(32);
  const auto conflicts = [&](int stride) {
    const auto statistics = launch(load_rows, {1}, 32, 32 * 64 * sizeof(bf16), {}, out.data(), stride);
    EXPECT_EQ(statistics.matrix_loads, 1);
    return statistics.bank_conflicts;
  };
  EXPECT_EQ(conflicts(64), 4 * 7);  // rows of 128 bytes: all eight in one group of banks
  EXPECT_EQ(conflicts(32), 4 * 3);
  EXPECT_EQ(conflicts(16), 4 * 1);
  EXPECT_EQ(conflicts(8), 0);
  EXPECT_EQ(conflicts(24), 0);
  EXPECT_EQ(conflicts(0), 0);  // one address for all is one read
}

__global__ void copy_groups(const float* in, float* out) {
  auto& shared = device::shared_memory<float[3][32 * 4]>();
  const unsigned i = threadIdx.x * 4;
  for (int group = 0; group < 3; ++group) {
    device::copy_async_16(shared[group] + i, in + group * 128 + i, true);
    device::copy_async_commit();
  }
  device::copy_async_commit();  // an empty group counts too
  device::copy_async_wait<2>();
  out[threadIdx.x] = shared[1][i];
  device::copy_async_wait<0>();
  out[32 + threadIdx.x] = shared[2][i];
}

TEST(Statistics, CopiesAndGroups) {
  std::vector<float> values(3 * 128);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i);
  const GuardedBuffer<float> in(values), out(64);
  const auto statistics = launch(copy_groups, {1}, 32, 3 * 128 * sizeof(float), {}, in.data(), out.data());
  EXPECT_EQ(statistics.copies, 96);
  for (unsigned i = 0; i < 32; ++i) {
    EXPECT_EQ(out[i], static_cast<float>(128 + 4 * i));
    EXPECT_EQ(out[32 + i], static_cast<float>(256 + 4 * i));
  }
}

// -------------------------------------------------------------- errors and memory ----

__global__ void half_a_barrier() {
  if (threadIdx.x % 2 == 0)
    device::sync_block();
  else
    device::sync_warp();
}

TEST(Errors, DivergenceWhoeverComesFirst) {
  std::set<std::string> waits;
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    const std::string error = error_of([&] { launch(half_a_barrier, {1}, 32, 0, {.seed = seed}); });
    EXPECT_TRUE(contains(error, "divergence: lane ")) << error;
    for (const char* wait : {"waits in sync_block", "waits in sync_warp"})
      if (contains(error, wait)) waits.insert(wait);
  }
  EXPECT_EQ(waits.size(), 2u);
}

__global__ void read_what_nobody_wrote(float* out) {
  out[threadIdx.x] = device::shared_memory<float[32]>()[threadIdx.x];
}

TEST(Errors, SharedMemoryStartsAsNaN) {
  const GuardedBuffer<float> out(std::vector<float>(32, 0.0f));
  const std::string error = error_of([&] { launch(read_what_nobody_wrote, {1}, 32, 128, {}, out.data()); });
  EXPECT_EQ(contains(error, "uninitialised read"), build() == Build::shadow) << error;
  EXPECT_TRUE(std::all_of(out.data(), out.data() + 32, [](float x) { return x != x; }));
}

__global__ void wrong_in_one_lane(float* out, bool wrong) {
  if (wrong && blockIdx.y == 1 && threadIdx.x == 37) {
    std::uint32_t r[4];
    device::load_matrix_x4(r, reinterpret_cast<const bf16*>(out));
  }
  device::sync_block();
  out[(blockIdx.y * gridDim.x + blockIdx.x) * 64 + threadIdx.x] = device::shuffle(1.0f, 3);
}

TEST(Errors, NameTheLaneAndLeaveNothingBehind) {
  const GuardedBuffer<float> out(2 * 64);
  for (int seed = 0; seed < 4; ++seed) {
    const Options options{.seed = static_cast<std::uint64_t>(seed)};
    const std::string error = error_of([&] {
      launch(wrong_in_one_lane, {1, 2}, 64, 0, options, out.data(), true);
    });
    EXPECT_TRUE(contains(error, "block (0, 1, 0), warp 1, lane 5, load_matrix_x4: ")) << error;
    EXPECT_TRUE(contains(error, "not within shared memory") || contains(error, "16-byte")) << error;
    EXPECT_EQ(error_of([&] { launch(wrong_in_one_lane, {1, 2}, 64, 0, options, out.data(), false); }), "");
    EXPECT_EQ(out.values(), std::vector<float>(128, 1.0f));
  }
}

TEST(GuardedBuffer, IsPoisonedAndAlignedAsTheContractSays) {
  GuardedBuffer<float> buffer(100);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % 32, 16u);
  EXPECT_TRUE(std::all_of(buffer.data(), buffer.data() + 100, [](float x) { return x != x; }));
  buffer[3] = 1.0f;
  buffer.poison();
  EXPECT_NE(buffer[3], buffer[3]);
  EXPECT_EQ(GuardedBuffer<int>(std::vector<int>{1, 2, 3}).values(), (std::vector<int>{1, 2, 3}));
}

}  // namespace
}  // namespace wuneng::emulator
