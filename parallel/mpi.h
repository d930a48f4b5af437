#pragma once

#include <mpi.h>

#include <memory>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// A communicator over an MPI group. Duplicates `group`, so that its messages meet no others.
std::unique_ptr<Communicator> make_mpi(MPI_Comm group);

}  // namespace wuneng::parallel
