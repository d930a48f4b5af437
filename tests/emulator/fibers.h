// Fibers: stacks that are switched by hand. Internal to the emulator.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) || defined(WUNENG_EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace wuneng::emulator {

struct Fiber {
#if !defined(__x86_64__) || defined(WUNENG_EMULATOR_UCONTEXT)
  ucontext_t context{};
#else
  void* stack_pointer = nullptr;
#endif
  std::byte* stack = nullptr;  // lowest address; of the host once it is known
  std::size_t stack_bytes = 0;
  void* sanitizer_stack = nullptr;
};

// Readies a fiber to run entry() when it is switched to. Stacks are kept and reused.
// The entry's first act must be enter_fiber(), and it must never return.
void start_fiber(Fiber& fiber, void (*entry)());
void enter_fiber();
// From the running fiber (or the host) to another. With `ends` the running one is never switched to again.
void switch_fiber(Fiber& from, Fiber& to, bool ends);
// AddressSanitizer only: frames that an abandoned fiber left behind are no longer out of bounds.
void forget_frames(Fiber& fiber);
void recycle_stack(Fiber& fiber);

}  // namespace wuneng::emulator
