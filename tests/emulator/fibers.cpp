#include "tests/emulator/fibers.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>
#include <vector>

#include "tests/emulator/sanitizer.h"

#if defined(__x86_64__) && !defined(WUNENG_EMULATOR_UCONTEXT)
// wuneng_switch_stacks(void** save, void* to): the callee-saved registers are all there is to keep.
extern "C" void wuneng_switch_stacks(void** save, void* to);
asm(R"(
.text
.globl wuneng_switch_stacks
.type wuneng_switch_stacks, @function
wuneng_switch_stacks:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size wuneng_switch_stacks, .-wuneng_switch_stacks
)");
#endif

namespace wuneng::emulator {
namespace {

Fiber* came_from;  // of the switch under way

// Stacks of fibers that are gone; all of one size.
std::vector<std::byte*>& spare_stacks() {
  static std::vector<std::byte*> stacks;
  return stacks;
}

std::byte* map_stack(std::size_t bytes) {
  if (!spare_stacks().empty()) {
    std::byte* stack = spare_stacks().back();
    spare_stacks().pop_back();
    return stack;
  }
  const auto guard = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* map = mmap(nullptr, guard + bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED || mprotect(map, guard, PROT_NONE) != 0) throw std::bad_alloc();
  return static_cast<std::byte*>(map) + guard;
}

// Tells AddressSanitizer that this stack runs now, and learns the host's bounds from the first switch away.
void arrived(Fiber* self) {
  if (!has_asan()) return;
  const void* bottom;
  std::size_t bytes;
  __sanitizer_finish_switch_fiber(self ? self->sanitizer_stack : nullptr, &bottom, &bytes);
  if (came_from->stack == nullptr) {
    came_from->stack = static_cast<std::byte*>(const_cast<void*>(bottom));
    came_from->stack_bytes = bytes;
  }
}

}  // namespace

void start_fiber(Fiber& fiber, void (*entry)()) {
  if (fiber.stack == nullptr) {
    fiber.stack_bytes = has_asan() ? 512 << 10 : 128 << 10;  // red zones are large
    fiber.stack = map_stack(fiber.stack_bytes);
  }
#if !defined(__x86_64__) || defined(WUNENG_EMULATOR_UCONTEXT)
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack;
  fiber.context.uc_stack.ss_size = fiber.stack_bytes;
  makecontext(&fiber.context, entry, 0);
#else
  // Stacks begin at different places of a page: if all began at its end, a few sets of the cache would hold
  // them all.
  const std::size_t shift = reinterpret_cast<std::uintptr_t>(fiber.stack) / 4096 % 64 * 64;
  // Six registers and the entry as return address, so that the stack is as after a call: 8 bytes off 16.
  auto* top = reinterpret_cast<std::uintptr_t*>(fiber.stack + fiber.stack_bytes - shift);
  top[-2] = reinterpret_cast<std::uintptr_t>(entry);
  fiber.stack_pointer = top - 8;
#endif
}

void enter_fiber() { arrived(nullptr); }

void switch_fiber(Fiber& from, Fiber& to, bool ends) {
  if (has_asan())
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer_stack, to.stack, to.stack_bytes);
  came_from = &from;
#if !defined(__x86_64__) || defined(WUNENG_EMULATOR_UCONTEXT)
  swapcontext(&from.context, &to.context);
#else
  wuneng_switch_stacks(&from.stack_pointer, to.stack_pointer);
#endif
  arrived(&from);
}

void forget_frames(Fiber& fiber) {
  if (fiber.stack != nullptr) asan_unpoison(fiber.stack, fiber.stack_bytes);
}

void recycle_stack(Fiber& fiber) {
  if (fiber.stack != nullptr) spare_stacks().push_back(fiber.stack);
  fiber.stack = nullptr;
}

}  // namespace wuneng::emulator
