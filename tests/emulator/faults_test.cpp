// Every fault that is planted in a kernel must be caught by the builds that claim to catch it, and the sound
// kernel must pass in all of them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <vector>

#include "tests/emulator/emulator.h"
#include "tests/emulator/faults_kernel.cuh"

namespace wuneng::emulator {
namespace {

constexpr int rows = 27;
constexpr int most_seeds = 8;  // the order build may need several

// ------------------------------------------------------------------ the problem ----

// -1, 0 or 1, so that all sums are exact and any difference is a fault.
int element(int matrix, int i) {
  return static_cast<int>((static_cast<unsigned>(i * 7 + matrix * 5 + 3) * 2654435761u >> 20) % 3) - 1;
}

std::vector<device::bf16> matrix(int which, int elements) {
  std::vector<device::bf16> values;
  for (int i = 0; i < elements; ++i) values.push_back(device::to_bf16(static_cast<float>(element(which, i))));
  return values;
}

float bias(int column) { return static_cast<float>(3 * column + 1); }

std::vector<float> biases() {
  std::vector<float> values;
  for (int i = 0; i < fault_columns; ++i) values.push_back(bias(i));
  return values;
}

std::vector<float> expected() {
  std::vector<float> out(rows * fault_columns);
  for (int row = 0; row < rows; ++row)
    for (int block = 0; block < fault_columns; block += 16) {
      int product[16] = {}, result[16] = {};
      for (int n = 0; n < 16; ++n)
        for (int k = 0; k < fault_inner; ++k)
          product[n] += element(0, row * fault_inner + k) * element(1, k * fault_columns + block + n);
      for (int n = 0; n < 16; ++n)
        for (int k = 0; k < 16; ++k) result[n] += product[k] * element(2, k * 16 + n);
      const int maximum = *std::max_element(result, result + 16);
      for (int n = 0; n < 16; ++n)
        out[row * fault_columns + block + n] = static_cast<float>(result[n] - maximum) + bias(block + n);
    }
  return out;
}

// Empty when nothing was noticed.
std::string caught_with(Fault fault, std::uint64_t seed) {
  const GuardedBuffer<device::bf16> a(matrix(0, rows * fault_inner)),
      b(matrix(1, fault_inner * fault_columns)), d(matrix(2, 256));
  const GuardedBuffer<float> bias(biases()), out(rows * fault_columns);
  const std::size_t shared = sizeof(FaultShared) - (fault == Fault::shared_too_small ? 64 : 0);
  Statistics statistics;
  try {
    statistics = launch(faulty, {2}, fault_threads, shared, {.seed = seed},
                        FaultProblem{fault, a.data(), b.data(), d.data(), bias.data(), out.data(), rows});
  } catch (const std::runtime_error& e) {
    return e.what();
  }
  if (out.values() != expected()) return "wrong result";
  if (statistics.bank_conflicts != 0) return "bank conflicts";
  if (statistics.barriers_per_block != 2 * fault_stages + 1) return "wrong number of barriers";
  return "";
}

std::string caught(Fault fault) {
  for (int seed = 0; seed < most_seeds; ++seed)
    if (const std::string how = caught_with(fault, seed); !how.empty()) return how;
  return "";
}

// ------------------------------------------------------------------ the claims ----

struct Claim {
  Fault fault;
  const char* name;
  const char* shadow;  // what the shadow build's message contains; null: as the order build
  const char* order =
      nullptr;  // what the order build's message contains; null: a wrong result; "-": not caught
};

#define F(name) Fault::name, #name
const Claim claims[] = {
    {F(no_barrier_after_wait), "in flight"},
    {F(no_barrier_before_reuse), "race: write after a read"},
    {F(no_barrier_before_bias), "race: read after a write", ""},
    {F(barrier_skipped_by_a_warp), "race", ""},
    {F(no_sync_warp_before_rows), "race: read after a write"},
    {F(no_sync_warp_before_matrix_load), "race: read after a write", "-"},
    {F(wait_removed), "read while a copy is in flight"},
    {F(wait_for_too_few), "read while a copy is in flight", ""},
    {F(wait_after_barrier), "race: read after a write"},
    {F(commit_forgotten), "read while a copy is in flight", ""},
    {F(last_group_not_waited_for), "read while a copy is in flight", "never waited for"},
    {F(copy_left_at_exit), nullptr, "never waited for"},
    {F(prefetch_before_barrier), "race: write after a read"},
    {F(prefetch_into_stage_in_use), "write while a copy is in flight"},
    {F(copy_not_masked), nullptr, "copy_async_16: the source is outside of its tensor"},
    {F(copy_mask_inverted), nullptr},
    {F(copy_of_the_wrong_row), nullptr},
    {F(misaligned_copy), nullptr, "copy_async_16: the shared address is not 16-byte aligned"},
    {F(a_rows_and_columns_swapped), nullptr},
    {F(a_registers_swapped), nullptr},
    {F(b_registers_swapped), nullptr},
    {F(b_column_blocks_swapped), nullptr},
    {F(b_not_transposed), nullptr},
    {F(accumulator_row_wrong), "race: write after a write"},
    {F(accumulator_column_wrong), nullptr},
    {F(accumulator_not_cleared), nullptr},
    {F(second_operand_swapped), nullptr},
    {F(shuffle_wrong_lane), nullptr},
    {F(shuffle_down_for_xor), nullptr},
    {F(misaligned_matrix_row), nullptr, "load_matrix_x4: the row is not 16-byte aligned"},
    {F(matrix_row_outside), nullptr, "load_matrix_x4: the row is not within shared memory"},
    {F(shared_write_past_end), "access past the end", "shared memory was written 0 bytes past its end"},
    {F(shared_write_before_start), "access before the start",
     "shared memory was written 2 bytes before its start"},
    {F(shared_read_past_end), "access past the end"},
    {F(shared_too_small), nullptr, "shared_memory: the kernel needs"},
    {F(pad_read), "uninitialised read"},
    {F(bias_element_not_written), "uninitialised read"},
    {F(staging_of_the_other_warp), "race"},
    {F(written_twice), "race: write after a write", "-"},
    {F(store_mask_one_too_many), "access past the end", "past the end of a tensor"},
    {F(store_mask_one_too_few), nullptr},
    {F(bias_read_past_end), "access past the end"},
    {F(write_before_start), "access before the start", "before the start of a tensor"},
    {F(output_read_before_written), "uninitialised read"},
    {F(blocks_write_the_same), "race: write after a write"},
    {F(divergent_barrier), nullptr, "divergence"},
    {F(divergent_sync_warp), nullptr, "divergence"},
    {F(divergent_product), nullptr, "divergence"},
    {F(different_collectives), nullptr, "divergence"},
    {F(early_return), nullptr, "has exited"},
    {F(rows_without_padding), nullptr, "bank conflicts"},
    {F(barrier_too_many), nullptr, "wrong number of barriers"},
};
// Crashes the order build, as the processor traps.
const Claim misaligned{F(misaligned_store), "misaligned access"};
#undef F

std::string claimed_message(const Claim& claim) {
  const bool by_shadow = build() == Build::shadow && claim.shadow != nullptr;
  if (by_shadow) return claim.shadow;
  return claim.order == nullptr ? "wrong result" : claim.order;
}

void check_claim(const Claim& claim) {
  const std::string how = caught(claim.fault), message = claimed_message(claim);
  if (message == "-")
    EXPECT_EQ(how, "") << "more is caught than is claimed";
  else
    EXPECT_TRUE(!how.empty() && how.find(message) != std::string::npos)
        << "not as claimed, \"" << message << "\", but: " << how;
}

// AddressSanitizer ends the process, so each fault has one of its own: 1 from either means caught.
void check_by_exit(const Claim& claim) {
  const bool hidden = claim.order != nullptr && std::string(claim.order) == "-";
  EXPECT_EXIT(std::exit(caught(claim.fault).empty() ? 0 : 1), testing::ExitedWithCode(hidden ? 0 : 1), "");
}

TEST(Faults, TheSoundKernelPasses) {
  for (int seed = 0; seed < 16; ++seed) EXPECT_EQ(caught_with(Fault::none, seed), "") << seed;
}

TEST(Faults, EachIsCaughtAsClaimed) {
  for (const Claim& claim : claims) {
    SCOPED_TRACE(claim.name);
    build() == Build::asan ? check_by_exit(claim) : check_claim(claim);
  }
  if (build() == Build::shadow) check_claim(misaligned);
  if (build() == Build::asan) check_by_exit(misaligned);
  EXPECT_EQ(std::size(claims) + 1, static_cast<std::size_t>(Fault::count) - 1) << "a fault without a claim";
}

}  // namespace
}  // namespace wuneng::emulator
