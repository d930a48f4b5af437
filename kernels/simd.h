// How CPU kernels reach the vector unit: plain loops in a function marked WUNENG_SIMD are compiled for
// AVX-512, for AVX2 and for the baseline, and the loader picks one for the machine (GCC's target_clones).
// Helpers that such a function calls must be WUNENG_INLINE, so that they are compiled with it.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define WUNENG_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define WUNENG_SIMD
#endif
#define WUNENG_INLINE inline __attribute__((always_inline))

// In front of a loop whose iterations touch different elements: the compiler needs no checks that the arrays
// do not overlap, of which it gives up on more than a few.
#define WUNENG_INDEPENDENT _Pragma("GCC ivdep")
