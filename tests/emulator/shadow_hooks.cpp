// What g++ -fsanitize=thread calls at every plain load and store; libtsan is not linked. Registers the
// checker.
#include <cstddef>

#include "tests/emulator/shadow.h"

namespace {

wuneng::emulator::Shadow shadow;
const bool registered = (wuneng::emulator::checker() = &shadow) != nullptr;

}  // namespace

#define WUNENG_PLAIN(name, bytes, writes, aligned) \
  void name(void* p) { shadow.plain(p, bytes, writes, aligned, __builtin_return_address(0)); }

extern "C" {
void __tsan_init() {}
WUNENG_PLAIN(__tsan_read1, 1, false, true)
WUNENG_PLAIN(__tsan_read2, 2, false, true)
WUNENG_PLAIN(__tsan_read4, 4, false, true)
WUNENG_PLAIN(__tsan_read8, 8, false, true)
WUNENG_PLAIN(__tsan_read16, 16, false, true)
WUNENG_PLAIN(__tsan_write1, 1, true, true)
WUNENG_PLAIN(__tsan_write2, 2, true, true)
WUNENG_PLAIN(__tsan_write4, 4, true, true)
WUNENG_PLAIN(__tsan_write8, 8, true, true)
WUNENG_PLAIN(__tsan_write16, 16, true, true)
WUNENG_PLAIN(__tsan_unaligned_read2, 2, false, false)
WUNENG_PLAIN(__tsan_unaligned_read4, 4, false, false)
WUNENG_PLAIN(__tsan_unaligned_read8, 8, false, false)
WUNENG_PLAIN(__tsan_unaligned_read16, 16, false, false)
WUNENG_PLAIN(__tsan_unaligned_write2, 2, true, false)
WUNENG_PLAIN(__tsan_unaligned_write4, 4, true, false)
WUNENG_PLAIN(__tsan_unaligned_write8, 8, true, false)
WUNENG_PLAIN(__tsan_unaligned_write16, 16, true, false)
void __tsan_read_range(void* p, std::size_t bytes) {
  shadow.plain(p, bytes, false, false, __builtin_return_address(0));
}
void __tsan_write_range(void* p, std::size_t bytes) {
  shadow.plain(p, bytes, true, false, __builtin_return_address(0));
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

// Atomics occur in the tests' own code only (static variables, reference counts); these are what libstdc++
// needs.
#define WUNENG_ATOMIC(bits, type)                                       \
  type __tsan_atomic##bits##_load(const volatile type* p, int) {        \
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);                        \
  }                                                                     \
  void __tsan_atomic##bits##_store(volatile type* p, type x, int) {     \
    __atomic_store_n(p, x, __ATOMIC_SEQ_CST);                           \
  }                                                                     \
  type __tsan_atomic##bits##_fetch_add(volatile type* p, type x, int) { \
    return __atomic_fetch_add(p, x, __ATOMIC_SEQ_CST);                  \
  }                                                                     \
  type __tsan_atomic##bits##_fetch_sub(volatile type* p, type x, int) { \
    return __atomic_fetch_sub(p, x, __ATOMIC_SEQ_CST);                  \
  }
WUNENG_ATOMIC(8, unsigned char)
WUNENG_ATOMIC(32, int)
WUNENG_ATOMIC(64, long)
}
