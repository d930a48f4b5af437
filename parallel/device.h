// Where a rank's tensors live.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <memory>
#include <string>

#include "parallel/communicator.h"
#include "parallel/config.h"

namespace wuneng::parallel {

// This process among those of its host.
struct HostRank {
  int rank = 0, size = 1;
};

struct Device {
  at::Device where = at::kCPU;
  bool shared = false;       // with another rank
  std::string name = "CPU";  // "NVIDIA H100 80GB HBM3"
  std::string libraries;     // of a GPU, as loaded: "CUDA 13.0, driver for 13.0, NCCL 2.28.9"

  std::string describe() const { return libraries.empty() ? name : name + " (" + libraries + ")"; }
};

// The CPU, or the GPU of this rank: with n GPUs, number rank mod n of its host. Loads LibTorch's CUDA
// library, which runs on the CPU go without, and asks LibTorch for operators that give the same bits each
// time. Call it before anything else touches CUDA. Throws UsageError when a GPU is asked for and there is
// none (or no CUDA in this build, or in LibTorch), and when ranks would have to share a GPU without
// parallel.share_gpus.
Device choose_device(const ParallelConfig& config, HostRank host);

// `group`, which takes tensors on the CPU, for tensors on `device` too: over NCCL, or through host memory
// where ranks share a GPU. A call over NCCL that takes longer than `limit` fails. All ranks of the group call
// it.
std::unique_ptr<Communicator> with_device(std::unique_ptr<Communicator> group, const Device& device,
                                          std::chrono::seconds limit);

}  // namespace wuneng::parallel
