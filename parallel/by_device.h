#pragma once

#include <memory>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// Two groups of the same ranks as one: tensors on the CPU, barriers and texts go through `host`, tensors on
// any other device through `device`.
std::unique_ptr<Communicator> make_by_device(std::unique_ptr<Communicator> host,
                                             std::unique_ptr<Communicator> device);

}  // namespace wuneng::parallel
