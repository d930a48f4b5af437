#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// Of the library that was loaded: "2.28.9".
std::string nccl_version();

// CUDA tensors of this rank's `device` over NCCL; `control` (over MPI) joins the same ranks and carries
// barriers and texts. All ranks call it, each with a GPU of its own.
//
// Calls are queued on a high-priority stream of the communicator: each begins when what the caller's current
// stream has been given is done, and what that stream is given later waits for it. So nothing waits on the
// host, and background() is the same ranks on another such stream. A call that is not done `limit` after it
// was queued, or an error that NCCL reports meanwhile, aborts the communicator, by which kernels that wait
// for other ranks end; the next call throws Error with the reason. float32, float64, bfloat16 and int64.
std::unique_ptr<Communicator> make_nccl(std::unique_ptr<Communicator> control, int device,
                                        std::chrono::seconds limit);

}  // namespace wuneng::parallel
