// Kernels share their work by at::parallel_for, which compiles without OpenMP too, and then has one thread.
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <array>
#include <thread>

namespace wuneng {
namespace {

TEST(Threads, AreAsManyAsWereAskedFor) {
  const int before = at::get_num_threads();
  at::set_num_threads(2);
  std::array<std::thread::id, 2> who;
  at::parallel_for(0, 2, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) who[i] = std::this_thread::get_id();
  });
  at::set_num_threads(before);
  EXPECT_NE(who[0], who[1]);
}

}  // namespace
}  // namespace wuneng
