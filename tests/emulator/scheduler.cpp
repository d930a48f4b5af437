// Who runs next, who waits for whom, and what is divergence or deadlock.
#include <cstdlib>
#include <stdexcept>

#include "tests/emulator/checker.h"
#include "tests/emulator/machine.h"

namespace wuneng::emulator {
namespace {

// One of the set bits, by random bits.
int choose(std::uint32_t set, unsigned random) {
  const int shift = static_cast<int>(random % 32);
  return (std::countr_zero(std::rotr(set, shift)) + shift) % 32;
}

std::uint32_t bit(int i) { return 1u << i; }

}  // namespace

int Machine::pick() {
  if (ready_warps_ == 0) return -1;
  const std::uint64_t random = random_();
  int w = warp();
  const bool may_stay = (ready_warps_ & bit(w)) != 0;
  const bool stays = may_stay && (policy_.leave == Policy::when_blocked ||
                                  (policy_.leave == Policy::now_and_then && random % 8 != 0));
  if (!stays) {
    const std::uint32_t others = ready_warps_ & ~bit(w);
    const auto bits = policy_.fixed_priority ? policy_.priority : static_cast<unsigned>(random >> 8);
    w = choose(others != 0 ? others : ready_warps_, bits);
  }
  return w * warp_lanes + choose(warps_[w].ready, static_cast<unsigned>(random >> 16));
}

void Machine::resume(int thread, bool ends) {
  Fiber& from = in_host_ ? host_ : self().fiber;
  in_host_ = false;
  thread_ = thread;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  switch_fiber(from, lanes_[thread].fiber, ends);
}

void Machine::wait() {
  const int me = thread_;
  const int next = pick();
  if (next < 0) {  // what could lead here is refused as divergence before
    const bool at_barrier = (warps_[warp()].at_barrier & bit(lane())) != 0;
    fail(at_barrier ? Primitive::sync_block : warps_[warp()].collective, "deadlock");
  }
  if (next != me) resume(next, false);
}

void Machine::maybe_yield() {
  if (random_() % 4 == 0) wait();
}

// What another lane of the warp does that makes a rendezvous impossible; empty when it is possible.
std::string Machine::divergence(const Warp& w) const {
  const auto first = [](std::uint32_t lanes) { return "lane " + std::to_string(std::countr_zero(lanes)); };
  if (w.exited != 0) return "divergence: " + first(w.exited) + " of the warp has exited";
  if (w.at_barrier != 0) return "divergence: " + first(w.at_barrier) + " of the warp waits in sync_block";
  if (w.arrived != 0)
    return "divergence: " + first(w.arrived) + " of the warp waits in " + name(w.collective);
  return "";
}

Warp& Machine::arrive(Primitive primitive, void* operands) {
  Warp& w = warps_[warp()];
  if (w.collective != primitive) {
    const std::string problem = divergence(w);
    if (!problem.empty()) fail(primitive, problem);
  }
  w.collective = primitive;
  w.operands[lane()] = operands;
  w.arrived |= bit(lane());
  w.ready &= ~bit(lane());
  if (w.ready == 0) ready_warps_ &= ~bit(warp());
  return w;
}

void Machine::release(Warp& w) {
  w.ready = w.arrived;
  w.arrived = 0;
  w.collective = Primitive::none;
  ready_warps_ |= bit(warp());
  if (policy_.leave == Policy::always) maybe_yield();
}

void Machine::sync_block() {
  Warp& w = warps_[warp()];
  if (w.arrived != 0) fail(Primitive::sync_block, divergence(w));
  w.at_barrier |= bit(lane());
  w.ready &= ~bit(lane());
  if (w.ready == 0) ready_warps_ &= ~bit(warp());
  if (++at_barrier_ < alive_) return wait();
  complete_barrier();
  maybe_yield();
}

void Machine::complete_barrier() {
  for (std::size_t i = 0; i < warps_.size(); ++i) {
    Warp& w = warps_[i];
    if (w.at_barrier == 0) continue;
    w.ready |= w.at_barrier;
    w.at_barrier = 0;
    ready_warps_ |= bit(static_cast<int>(i));
  }
  at_barrier_ = 0;
  ++block_barriers_;
  if (checker()) checker()->sync_block();
}

void Machine::exit_lane() {
  Warp& w = warps_[warp()];
  if (!self().copies.empty())
    fail(Primitive::exit,
         std::to_string(self().copies.size()) + " asynchronous copies were never waited for");
  if (w.arrived != 0) fail(Primitive::exit, divergence(w));
  if (checker()) checker()->exit_thread(thread_);
  w.exited |= bit(lane());
  w.ready &= ~bit(lane());
  if (w.ready == 0) ready_warps_ &= ~bit(warp());
  --alive_;
  if (alive_ > 0 && at_barrier_ == alive_) complete_barrier();
  if (alive_ > 0 && ready_warps_ == 0) fail(Primitive::exit, "deadlock: nobody can run");
}

void Machine::lane_main() {
  enter_fiber();
  Machine& m = running();
  try {
    m.lane_();
    m.exit_lane();
  } catch (...) {
    m.error_ = std::current_exception();
  }
  m.leave();  // not in the catch block: an exception in flight belongs to its stack
}

void Machine::leave() {
  if (!error_ && alive_ > 0) resume(pick(), true);
  in_host_ = true;
  switch_fiber(self().fiber, host_, true);
}

void Machine::abandon(const std::string& what) {
  error_ = std::make_exception_ptr(std::runtime_error(what));
  leave();
  std::abort();  // not reached
}

}  // namespace wuneng::emulator
