// The processes of this job.
#pragma once

#include <memory>
#include <string>

#include "parallel/calls.h"
#include "parallel/communicator.h"
#include "parallel/device.h"

namespace wuneng::parallel {

// Starts MPI when a launcher (mpirun, srun) started this process, and is one process otherwise. Owned by
// main; its end is MPI_Finalize.
class World {
 public:
  // Throws UsageError when the launcher says that there are several processes but they cannot see each other,
  // or when the program was built without MPI; Error when the self-test of the network fails. Ends the
  // process when the ranks do not reach each other within $WUNENG_START_LIMIT seconds (else 120).
  World();
  ~World();
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  Communicator& communicator() { return *communicator_; }
  int rank() const { return communicator_->rank(); }
  int size() const { return communicator_->size(); }
  HostRank on_this_host() const { return on_this_host_; }
  const std::string& host() const { return host_; }
  std::string name() const;                                // "rank 1 of 2 on host"
  const std::string& library() const { return library_; }  // "Open MPI v4.1.4 ...", or "none"
  const Calls& calls() const { return *calls_; }           // of the communicator and what is split from it

  // Ends every process of the job at once with this exit code, from any rank, without waiting for the others.
  [[noreturn]] void abort(int exit_code);

 private:
  std::unique_ptr<Calls> calls_;
  std::unique_ptr<Communicator> communicator_;
  std::string host_;
  std::string library_ = "none";
  HostRank on_this_host_;
  bool mpi_ = false;
};

}  // namespace wuneng::parallel
