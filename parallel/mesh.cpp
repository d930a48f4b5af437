#include "parallel/mesh.h"

#include <utility>

#include "common/check.h"
#include "parallel/checked.h"

namespace wuneng::parallel {

ParallelConfig resolved(ParallelConfig config, std::int64_t processes) {
  WN_REQUIRE(config.data > 0 || config.tensor > 0,
             "parallel.data and parallel.tensor cannot both be auto; give one of them");
  if (config.tensor == 0) config.tensor = std::max<std::int64_t>(1, processes / config.data);
  WN_REQUIRE(processes % config.tensor == 0,
             "parallel.tensor = {}: does not divide the {} processes of this job; start a multiple of {}",
             config.tensor, processes, config.tensor);
  if (config.data == 0) config.data = processes / config.tensor;
  WN_REQUIRE(config.data * config.tensor == processes,
             "parallel.data = {} x parallel.tensor = {} needs {} processes, but this job has {}: start it "
             "with mpirun -n {}, or set parallel.data=auto",
             config.data, config.tensor, config.data * config.tensor, processes, config.data * config.tensor);
  return config;
}

Mesh::Mesh(const ParallelConfig& config, Communicator& world, const Device& device,
           std::chrono::seconds limit) {
  const int tensor = static_cast<int>(config.tensor);
  const auto group = [&](int colour) {
    auto ranks = with_device(world.split(colour), device, limit);
    return config.check_calls ? make_checked(std::move(ranks), fmt::format("rank {}", world.rank()))
                              : std::move(ranks);
  };
  tensor_ = group(world.rank() / tensor);
  data_ = group(world.rank() % tensor);
}

}  // namespace wuneng::parallel
