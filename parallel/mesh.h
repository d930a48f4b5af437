// The ranks of a job as a grid, data x tensor; tensor neighbours are adjacent ranks, so that they share a
// node.
#pragma once

#include <memory>

#include "parallel/communicator.h"
#include "parallel/config.h"
#include "parallel/device.h"

namespace wuneng::parallel {

// With the axis that is auto filled in. Throws UsageError with the numbers when the sizes of the axes do not
// multiply to the number of processes.
ParallelConfig resolved(ParallelConfig config, std::int64_t processes);

class Mesh {
 public:
  // Splits `world`, whose ranks all call this with the same resolved() sizes. The groups carry tensors on the
  // CPU and on `device`; `limit`: see with_device().
  Mesh(const ParallelConfig& config, Communicator& world, const Device& device = {},
       std::chrono::seconds limit = std::chrono::minutes(10));

  Communicator& data() const {
    return *data_;
  }  // ranks that hold the same shards and different micro-batches
  Communicator& tensor() const {
    return *tensor_;
  }  // ranks that hold different shards and the same micro-batches

 private:
  std::unique_ptr<Communicator> data_, tensor_;
};

}  // namespace wuneng::parallel
