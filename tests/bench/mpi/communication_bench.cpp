// Our collectives over MPI against MPI's own calls, in turns, in the same run:
//
//   mpirun -n 2 build/wuneng_communication_bench
//
// Bytes are those of the larger tensor; times are the median of a rank's calls, the slowest rank's. "tree" is
// the reduce-scatter that adds in a fixed order (gradient_tree.h), against MPI_Reduce_scatter_block.
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <fmt/format.h>
#include <mpi.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <vector>

#include "common/memory.h"
#include "parallel/gradient_tree.h"
#include "parallel/world.h"

namespace wuneng {
namespace {

using Call = std::function<void()>;

double seconds(const Call& call) {
  MPI_Barrier(MPI_COMM_WORLD);
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double median_of_slowest_rank(std::vector<double> times) {
  std::ranges::nth_element(times, times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2));
  double slowest = 0.0;
  MPI_Allreduce(&times[times.size() / 2], &slowest, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return slowest;
}

void compare(parallel::World& world, const char* name, std::int64_t bytes, const Call& ours,
             const Call& theirs) {
  const int rounds = bytes <= 1 << 20 ? 200 : bytes <= 16 << 20 ? 30 : 7;
  std::vector<double> our_times, their_times;
  for (int round = 0; round < rounds; ++round) {
    our_times.push_back(seconds(ours));
    their_times.push_back(seconds(theirs));
  }
  const double mine = median_of_slowest_rank(our_times), other = median_of_slowest_rank(their_times);
  if (world.rank() == 0)
    fmt::print("{:15} {:8.0f} KiB {:12.1f} us {:12.1f} us {:8.2f} x as fast {:8.2f} GB/s\n", name,
               static_cast<double>(bytes) / 1024, mine * 1e6, other * 1e6, other / mine,
               static_cast<double>(bytes) / mine / 1e9);
}

void compare_size(parallel::World& world, std::int64_t bytes) {
  parallel::Communicator& group = world.communicator();
  const std::int64_t ranks = group.size(), piece = bytes / 4 / ranks;
  const int count = static_cast<int>(piece), all_count = static_cast<int>(piece * ranks);
  const at::Tensor all = at::randn({ranks, piece}), mine = at::randn({piece});
  auto *everything = all.mutable_data_ptr<float>(), *own = mine.mutable_data_ptr<float>();
  compare(
      world, "all-reduce", bytes, [&] { group.all_reduce_sum(all); },
      [&] { MPI_Allreduce(MPI_IN_PLACE, everything, all_count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD); });
  all.fill_(1.0);
  const Call their_reduce_scatter = [&] {
    MPI_Reduce_scatter_block(everything, own, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
  };
  compare(
      world, "reduce-scatter", bytes, [&] { group.reduce_scatter_sum(all, mine); }, their_reduce_scatter);
  compare(
      world, "tree", bytes, [&] { parallel::reduce_scatter_tree(all, group); }, their_reduce_scatter);
  compare(
      world, "all-gather", bytes, [&] { group.all_gather(mine, all); },
      [&] { MPI_Allgather(own, count, MPI_FLOAT, everything, count, MPI_FLOAT, MPI_COMM_WORLD); });
}

}  // namespace
}  // namespace wuneng

int main() {
  wuneng::keep_freed_memory();  // as in trainer/main.cpp
  wuneng::parallel::World world;
  if (world.rank() == 0) fmt::print("{} ranks of {}: ours, MPI's\n", world.size(), world.library());
  for (std::int64_t kib = 1; kib <= 256 << 10; kib *= 4) wuneng::compare_size(world, kib << 10);
}
