// The primitives that device code is written with: what a warp and a block can do beyond plain C++. Under
// nvcc each is a line of inline PTX; under a host compiler each is only declared here and defined by the
// lane-accurate emulator of tests/emulator, which so runs the very same kernels.
//
// Rules that let one source serve both:
//   - a kernel is a __global__ function of plain C++; all its shared memory is one struct,
//   shared_memory<T>();
//   - bf16 is the 16-bit type below; fragments are plain arrays;
//   - every lane of a warp reaches each warp primitive, every thread of a block each sync_block().
//
// Fragment layouts (PTX ISA, "Matrix fragments"), with g = lane / 4 and t = lane % 4:
//   A 16x16 bf16, 4 registers: a0 (g, 2t..2t+1), a1 (g+8, 2t..), a2 (g, 2t+8..), a3 (g+8, 2t+8..), low half
//   first B 16x8  bf16, 2 registers: b0 (k = 2t..2t+1, n = g), b1 (k = 2t+8..2t+9, n = g) C 16x8  fp32, 4
//   registers: c0 (g, 2t), c1 (g, 2t+1), c2 (g+8, 2t), c3 (g+8, 2t+1)
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define WUNENG_DEVICE __device__ __forceinline__
#else
#include "kernels/device/cuda_words.h"
#define WUNENG_DEVICE inline
#endif

namespace wuneng::device {

constexpr int warp_size = 32;

struct alignas(2) bf16 {
  std::uint16_t bits;
};

#ifdef __CUDACC__

template <class T>
WUNENG_DEVICE T& shared_memory() {
  extern __shared__ __align__(128) unsigned char shared_bytes[];
  return *reinterpret_cast<T*>(shared_bytes);
}

// ------------------------------------------------------------------------ order ----

// Every thread of the block; orders shared and global memory among them.
WUNENG_DEVICE void sync_block() { asm volatile("bar.sync 0;" ::: "memory"); }
// Every lane of the warp; orders shared and global memory among them.
WUNENG_DEVICE void sync_warp() { asm volatile("bar.warp.sync 0xffffffff;" ::: "memory"); }

// ------------------------------------------------------------------------ lanes ----

// The value of lane (this lane XOR mask).
WUNENG_DEVICE float shuffle_xor(float x, int mask) {
  float y;
  asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(mask));
  return y;
}
// The value of lane + delta; lanes without such a neighbour keep their own.
WUNENG_DEVICE float shuffle_down(float x, int delta) {
  float y;
  asm volatile("shfl.sync.down.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(delta));
  return y;
}
// The value of lane - delta; lanes without such a neighbour keep their own.
WUNENG_DEVICE float shuffle_up(float x, int delta) {
  float y;
  asm volatile("shfl.sync.up.b32 %0, %1, %2, 0x0, 0xffffffff;" : "=f"(y) : "f"(x), "r"(delta));
  return y;
}
// The value of the given lane.
WUNENG_DEVICE float shuffle(float x, int lane) {
  float y;
  asm volatile("shfl.sync.idx.b32 %0, %1, %2, 0x1f, 0xffffffff;" : "=f"(y) : "f"(x), "r"(lane));
  return y;
}

// ----------------------------------------------------------------- matrix units ----

// Four 8x8 bf16 matrices from shared memory: lane l gives the address of row l % 8 of matrix l / 8, 16 bytes,
// 16-aligned. Register i of every lane is from matrix i: row g, columns 2t and 2t + 1.
WUNENG_DEVICE void load_matrix_x4(std::uint32_t (&r)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
// The same, each matrix transposed: register i holds rows 2t and 2t + 1 of column g.
WUNENG_DEVICE void load_matrix_x4_transposed(std::uint32_t (&r)[4], const bf16* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<std::uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}
// c += a b for a 16x16, b 16x8, c 16x8.
WUNENG_DEVICE void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ----------------------------------------------------------- asynchronous copies ----

// Starts a copy of 16 bytes, both addresses 16-aligned, or of zeros when !valid (then `global` is not read,
// but must be a valid address). This thread's copies land at latest in its copy_async_wait(); other threads
// see them after a barrier that follows.
WUNENG_DEVICE void copy_async_16(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<std::uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? 16 : 0)
               : "memory");
}
// Closes this thread's group of copies.
WUNENG_DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's latest groups are still under way.
template <int pending>
WUNENG_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---------------------------------------------------------------------- numbers ----

// 2^x to about 2 ulp.
WUNENG_DEVICE float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Two floats rounded to bf16, nearest even: `low` in the low half.
WUNENG_DEVICE std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}
WUNENG_DEVICE float bits_to_float(std::uint32_t x) { return __uint_as_float(x); }

#else  // declared for the emulator

void* shared_memory_bytes(std::size_t size);
template <class T>
T& shared_memory() {
  return *static_cast<T*>(shared_memory_bytes(sizeof(T)));
}
void sync_block();
void sync_warp();
float shuffle_xor(float x, int mask);
float shuffle_down(float x, int delta);
float shuffle_up(float x, int delta);
float shuffle(float x, int lane);
void load_matrix_x4(std::uint32_t (&r)[4], const bf16* row);
void load_matrix_x4_transposed(std::uint32_t (&r)[4], const bf16* row);
void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1);
void copy_async_16(void* shared, const void* global, bool valid);
void copy_async_commit();
void copy_async_wait_pending(int pending);
template <int pending>
void copy_async_wait() {
  copy_async_wait_pending(pending);
}
float exp2_approx(float x);
std::uint32_t pack_bf16(float low, float high);
float bits_to_float(std::uint32_t x);

#endif

WUNENG_DEVICE float to_float(bf16 x) { return bits_to_float(static_cast<std::uint32_t>(x.bits) << 16); }
WUNENG_DEVICE float to_float(float x) { return x; }
WUNENG_DEVICE bf16 to_bf16(float x) { return {static_cast<std::uint16_t>(pack_bf16(x, 0.0f))}; }
// The halves of a packed pair.
WUNENG_DEVICE float low_half(std::uint32_t pair) { return bits_to_float(pair << 16); }
WUNENG_DEVICE float high_half(std::uint32_t pair) { return bits_to_float(pair & 0xffff0000u); }

}  // namespace wuneng::device
