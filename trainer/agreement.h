// Errors and facts on which all ranks must agree before any of them goes on.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/check.h"
#include "parallel/communicator.h"
#include "parallel/world.h"

namespace wuneng::trainer {

// An error that every rank knows of: each throws it, rank 0 prints it, and all end in good order.
class AgreedError : public Error {
 public:
  using Error::Error;
};

// Ranks as "1" or "1, 3 and 5 more".
std::string list_ranks(const std::vector<int>& ranks);

// Runs `work` on every rank. If it throws on any, every rank throws AgreedError with the first failing rank's
// message (and which ranks failed, unless all did) instead of waiting for ever for the others.
void agree(parallel::Communicator& world, const std::function<void()>& work);

// A fact that must be the same on every rank, as "what it is" and its value on this rank.
struct Fact {
  std::string name, value;
};

// Throws AgreedError naming the first fact that differs, the odd ranks with their hosts and both values.
void check_same(parallel::World& world, const std::vector<Fact>& facts);

// The body of a program: runs it, prints an error once and returns the exit code. An error that only this
// rank knows of ends the whole job at once, naming rank, host and `where()`.
int run_guarded(parallel::World& world, const std::function<ExitCode()>& body,
                const std::function<std::string()>& where);

}  // namespace wuneng::trainer
