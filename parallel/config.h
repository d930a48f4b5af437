#pragma once

#include <cstdint>

namespace wuneng::parallel {

// How gradients are added over micro-batches and data-parallel ranks: in the fixed tree of gradient_tree.h,
// or in whichever order the library finds fastest, which changes the last bits with the number of ranks.
enum class Reduction { tree, fast };

// Where a rank computes; automatic: on a GPU where its host has one.
enum class DeviceKind { automatic, cpu, cuda };

struct ParallelConfig {
  // Sizes of the mesh axes, whose product is the number of processes. 0 (auto, one of them): all that the
  // other axis leaves.
  std::int64_t data = 0;
  std::int64_t tensor = 1;
  DeviceKind device = DeviceKind::automatic;
  bool share_gpus = false;  // a host may have more ranks than GPUs, whose messages then go through its memory
  // The residual stream between the blocks is split over the tensor ranks by tokens, which they must divide.
  bool sequence = false;
  Reduction reduction = Reduction::tree;
  bool check_calls = false;     // ranks compare each call before they make it (checked.h), to find faults
  bool shard_optimizer = true;  // each data-parallel rank updates its share of the parameters (ZeRO-1)
};

}  // namespace wuneng::parallel
