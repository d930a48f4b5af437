// AddressSanitizer's interface, null where the program is built without it: one emulator serves all builds.
#pragma once

#include <cstddef>

extern "C" {
[[gnu::weak]] void __sanitizer_start_switch_fiber(void** save, const void* bottom, std::size_t size);
[[gnu::weak]] void __sanitizer_finish_switch_fiber(void* save, const void** old_bottom,
                                                   std::size_t* old_size);
[[gnu::weak]] void __asan_poison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void __asan_unpoison_memory_region(const volatile void* address, std::size_t size);
[[gnu::weak]] void* __asan_region_is_poisoned(void* address, std::size_t size);
}

namespace wuneng::emulator {

inline bool has_asan() { return __asan_poison_memory_region != nullptr; }
inline void asan_poison(const void* address, std::size_t size) {
  if (has_asan()) __asan_poison_memory_region(address, size);
}
inline void asan_unpoison(const void* address, std::size_t size) {
  if (has_asan()) __asan_unpoison_memory_region(address, size);
}

}  // namespace wuneng::emulator
