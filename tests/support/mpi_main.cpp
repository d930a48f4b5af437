// main of the multi-rank tests: every rank runs every test; a failure on any rank fails the program on all.
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "parallel/world.h"
#include "tests/support/world.h"

namespace wuneng::tests {
namespace {
parallel::World* current = nullptr;  // lives in main
}
parallel::World& world() { return *current; }
}  // namespace wuneng::tests

int main(int argc, char** argv) {
  wuneng::parallel::World world;
  wuneng::tests::current = &world;
  testing::InitGoogleTest(&argc, argv);
  if (world.rank() > 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
  }
  const int failed = RUN_ALL_TESTS();
  const at::Tensor failures = at::full({1}, failed, at::kLong);
  world.communicator().all_reduce_sum(failures);
  const auto total = *failures.const_data_ptr<std::int64_t>();
  if (failed != 0) std::fprintf(stderr, "rank %d: a test failed here\n", world.rank());
  return total == 0 ? 0 : 1;
}
