#include "parallel/mesh.h"

#include "common/check.h"

namespace wuneng::parallel {

void check_mesh(const ParallelConfig& config, std::int64_t processes) {
  WN_REQUIRE(processes % config.tensor == 0,
             "parallel.tensor = {}: does not divide the {} processes of this job; start a multiple of {}",
             config.tensor, processes, config.tensor);
  const std::int64_t data = config.data > 0 ? config.data : processes / config.tensor;
  WN_REQUIRE(data * config.tensor == processes,
             "parallel.data = {} x parallel.tensor = {} needs {} processes, but this job has {}: start it "
             "with mpirun -n {}, or set "
             "parallel.data=auto",
             data, config.tensor, data * config.tensor, processes, data * config.tensor);
}

Mesh::Mesh(const ParallelConfig& config, Communicator& world) {
  const int tensor = static_cast<int>(config.tensor);
  tensor_ = world.split(world.rank() / tensor);
  data_ = world.split(world.rank() % tensor);
}

}  // namespace wuneng::parallel
