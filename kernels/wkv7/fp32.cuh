// WKV-7 on CUDA in exact float32: the algorithm of chunk.h by the threads of a block, one sequence and head
// at a time. Not made for speed.
#pragma once

#include <cmath>

#include "kernels/device/warp.cuh"
#include "kernels/wkv7/chunk.h"
#include "kernels/wkv7/chunk_table.cuh"

namespace wuneng::kernels {

constexpr int fp32_threads = 256;

// The backend of chunk.h: the elements of every result are shared out among the threads, which meet after
// each operation.
struct BlockTiles {
  using Element = float;
  using Value = float;
  WUNENG_DEVICE static float load(const float* from) { return *from; }
  WUNENG_DEVICE static void store(float* to, float x) { *to = x; }
  WUNENG_DEVICE static float exponential(float x) { return expf(x); }
  template <int rows, int n>
  WUNENG_DEVICE static void prefetch(const float*, std::int64_t) {}

  template <int n, class Column>
  WUNENG_DEVICE static void columns(Column column) {
    for (int j = static_cast<int>(threadIdx.x); j < n; j += fp32_threads) column(j);
    device::sync_block();
  }

  // Element (i, j) of a b, over the terms that the left factor's shape leaves.
  template <chunk::Shape shape, int block, class A, class B>
  WUNENG_DEVICE static float dot(const A& a, const B& b, int i, int j, float sum) {
    constexpr int size = shape == chunk::Shape::full ? A::columns : block;
    const int first = shape == chunk::Shape::upper ? i % size : 0;
    const int last = shape == chunk::Shape::lower ? i % size + 1 : size;
    for (int at = 0; at < A::columns; at += size)
      for (int k = at + first; k < at + last; ++k) sum += a(i, k) * b(k, j);
    return sum;
  }
  template <chunk::Shape shape = chunk::Shape::full, int block = 1, class C, class A, class B>
  WUNENG_DEVICE static void product(C c, A a, B b) {
    columns<C::rows * C::columns>([=](int e) {
      const int i = e / C::columns, j = e % C::columns;
      c(i, j) = dot<shape, block>(a, b, i, j, 0.0f);
    });
  }
  template <chunk::Shape shape = chunk::Shape::full, int block = 1, class C, class A, class B>
  WUNENG_DEVICE static void add_product(C c, A a, B b) {
    columns<C::rows * C::columns>([=](int e) {
      const int i = e / C::columns, j = e % C::columns;
      c(i, j) = dot<shape, block>(a, b, i, j, c(i, j));
    });
  }
  template <class C, class C0, class A, class B>
  WUNENG_DEVICE static void add_product_scaled(C c, C0 c0, A a, B b, const float* scale) {
    columns<C::rows * C::columns>([=](int e) {
      const int i = e / C::columns, j = e % C::columns;
      c(i, j) = dot<chunk::Shape::full, 1>(a, b, i, j, c0(i, j)) * scale[j];
    });
  }
  template <class To, class From>
  WUNENG_DEVICE static void transpose(To to, From from) {
    columns<To::rows * To::columns>([=](int e) {
      const int i = e / To::columns, j = e % To::columns;
      to(i, j) = from(j, i);
    });
  }
  template <bool diagonal, class M>
  WUNENG_DEVICE static void keep_upper(M m) {
    columns<M::rows * M::columns>([=](int e) {
      const int i = e / M::columns, j = e % M::columns;
      if (!(diagonal ? i <= j : i < j)) m(i, j) = 0.0f;
    });
  }
};

template <int N>
using Fp32Chunks = chunk::Algorithm<BlockTiles, N, 8>;  // 16 tokens cost more registers and multiplications
template <int N>
using Fp32Shared = typename Fp32Chunks<N>::ChunkWork;
static_assert(sizeof(Fp32Shared<128>) <= 34 << 10);  // bytes of shared memory

// What block i of a grid works on in turn: tasks i, i + blocks, ..., task = sequence * H + head.
struct Fp32Task {
  Wkv7SequenceChunks sequence;
  std::int64_t head, offset;  // `offset` of the elements of its first token
  std::int64_t kept;          // the kept states of the tasks before it
};

WUNENG_DEVICE Fp32Task fp32_task(const Wkv7Chunks& chunks, int H, int N, std::int64_t i, int span) {
  Fp32Task task;
  task.sequence = sequence_at(chunks, i / H);
  task.head = i % H;
  task.offset = (task.sequence.token * H + task.head) * N;
  const std::int64_t own = (task.sequence.length - 1) / span;
  const std::int64_t before = chunks.sequence_table ? task.sequence.kept : i / H * own;
  task.kept = before * H + task.head * own;
  return task;
}

// State `index` of [.., H, N, N]; null without one.
template <int N, class Entry>
WUNENG_DEVICE Entry* fp32_state(Entry* states, std::int64_t index, int H, std::int64_t head) {
  return states && index >= 0 ? states + (index * H + head) * N * N : nullptr;
}

// budget wkv7_fp32_forward<64>: registers 168
// budget wkv7_fp32_forward<128>: registers 168
template <int N>
__global__ void __launch_bounds__(fp32_threads, 1)
    wkv7_fp32_forward(Wkv7Chunks chunks, int H, Wkv7CudaInputs<float> in, float* y, float* final_state,
                      float* kept_states, typename Fp32Chunks<N>::Span* spans) {
  auto& work = device::shared_memory<Fp32Shared<N>>();
  const std::int64_t tasks = static_cast<std::int64_t>(chunks.sequences) * H;
  for (std::int64_t i = blockIdx.x; i < tasks; i += gridDim.x) {
    const Fp32Task task = fp32_task(chunks, H, N, i, Fp32Chunks<N>::span_tokens);
    const std::int64_t at = task.offset;
    Fp32Chunks<N>::forward_sequence(
        {in.r + at, in.log_decay + at, in.k + at, in.v + at, in.a + at, in.b + at},
        static_cast<std::int64_t>(H) * N, task.sequence.length,
        fp32_state<N>(in.initial_state, task.sequence.initial, H, task.head), y + at,
        fp32_state<N>(final_state, task.sequence.final, H, task.head),
        kept_states ? kept_states + task.kept * N * N : nullptr, spans[blockIdx.x].chunks[0], work);
  }
}

// budget wkv7_fp32_backward<64>: registers 240
// budget wkv7_fp32_backward<128>: registers 255
template <int N>
__global__ void __launch_bounds__(fp32_threads, 1)
    wkv7_fp32_backward(Wkv7Chunks chunks, int H, Wkv7CudaInputs<float> in, const float* kept_states,
                       const float* grad_y, const float* grad_final_state, Wkv7CudaGradients<float> out,
                       typename Fp32Chunks<N>::Span* spans) {
  auto& work = device::shared_memory<Fp32Shared<N>>();
  const std::int64_t tasks = static_cast<std::int64_t>(chunks.sequences) * H;
  for (std::int64_t i = blockIdx.x; i < tasks; i += gridDim.x) {
    const Fp32Task task = fp32_task(chunks, H, N, i, Fp32Chunks<N>::span_tokens);
    const std::int64_t at = task.offset;
    Fp32Chunks<N>::backward_sequence(
        {in.r + at, in.log_decay + at, in.k + at, in.v + at, in.a + at, in.b + at},
        static_cast<std::int64_t>(H) * N, task.sequence.length,
        fp32_state<N>(in.initial_state, task.sequence.initial, H, task.head), kept_states + task.kept * N * N,
        grad_y ? grad_y + at : nullptr, fp32_state<N>(grad_final_state, task.sequence.final, H, task.head),
        {out.r + at, out.log_decay + at, out.k + at, out.v + at, out.a + at, out.b + at},
        fp32_state<N>(out.initial_state, task.sequence.initial, H, task.head), spans[blockIdx.x], work);
  }
}

}  // namespace wuneng::kernels
