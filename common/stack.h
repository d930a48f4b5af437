// Stacks as text, for messages about a process that is stuck or dies.
#pragma once

#include <pthread.h>

#include <array>
#include <string>

namespace wuneng {

// Return addresses, innermost first.
struct Stack {
  std::array<void*, 48> frames{};
  int depth = 0;
};

// One line for each frame: function, offset in it, and the file with the address that addr2line takes. It may
// allocate memory.
std::string to_text(const Stack& stack);

// Lets stacks be taken: what the system's unwinder loads at its first use is loaded here, outside of any
// signal handler, and SIGURG (ignored by default, so that a late one harms nobody) gets a handler for its
// life. One such object at a time.
class StackTaker {
 public:
  StackTaker();
  ~StackTaker();
  StackTaker(const StackTaker&) = delete;
  StackTaker& operator=(const StackTaker&) = delete;

  // Of the calling thread. Safe in a signal handler.
  static Stack here();
  // The same without the frames of a signal handler, from the instruction that was interrupted on; `context`
  // is the handler's third argument.
  static Stack interrupted(const void* context);
  // Of another thread, which is interrupted for it; empty when it does not answer within a second because it
  // waits inside the kernel.
  Stack of(pthread_t thread) const;
};

}  // namespace wuneng
