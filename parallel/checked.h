// Finds ranks that do not make the same calls, for debugging: a group would hang, or mix up what it sends.
#pragma once

#include <memory>
#include <string>

#include "parallel/communicator.h"

namespace wuneng::parallel {

// The same communicator and what is made from it. Before each collective its ranks compare what they call,
// with which dtype and shape, in one small exchange; where they differ, all of them throw Error that names
// the calls and the ranks, each by its `who`, as "rank 3". Sends and receives are not compared.
std::unique_ptr<Communicator> make_checked(std::unique_ptr<Communicator> inner, const std::string& who);

}  // namespace wuneng::parallel
