#pragma once

#include <cstdint>

namespace wuneng::parallel {

// Sizes of the mesh axes; their product is the number of processes.
struct ParallelConfig {
  std::int64_t data = 0;  // 0 (auto): all processes that the tensor axis leaves
  std::int64_t tensor = 1;
};

}  // namespace wuneng::parallel
