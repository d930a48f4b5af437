#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// `inner`, which takes tensors on the CPU, for tensors on any device: they travel through copies in host
// memory. For several ranks on one GPU, which NCCL refuses. Each call ends with the results in place, for
// whatever the current stream does next.
std::unique_ptr<Communicator> make_host_staged(std::unique_ptr<Communicator> inner);

}  // namespace wuneng::parallel
