#pragma once

#include "parallel/world.h"

namespace wuneng::tests {

// The ranks that mpirun started this multi-rank test with.
parallel::World& world();

}  // namespace wuneng::tests
