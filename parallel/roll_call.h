// Lets any thread of a rank learn what the other ranks are doing, while their main threads are busy or stuck.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "parallel/world.h"

namespace wuneng::parallel {

// Its messages travel apart from those of the communicators. All ranks construct it together; after that one
// thread of each rank uses it, which may be another than the main one.
class RollCall {
 public:
  explicit RollCall(World& world);
  ~RollCall();
  RollCall(const RollCall&) = delete;
  RollCall& operator=(const RollCall&) = delete;

  // Sends `words` to every rank that has asked since the last call. True when there was one. Never waits.
  bool answer(const std::string& words);

  // Asks all other ranks and waits for their words at most as long as given. Entry r is what rank r said,
  // empty when it said nothing; questions of others are answered meanwhile.
  std::vector<std::string> ask(const std::string& mine, std::chrono::milliseconds patience);

 private:
  struct Links;  // MPI's side of it
  std::unique_ptr<Links> links_;
  int rank_, size_;
};

}  // namespace wuneng::parallel
