// Launchers of WKV-7 on CUDA: device pointers and a stream, no tensors. All tensors are contiguous, tokens
// [B, T, H, N] as in wkv7.h, 16-byte aligned, N = 64 or 128. Every launcher returns 0 or the cudaError_t of a
// launch that failed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace wuneng::kernels {

// Sequences (sequences.h) are cut into chunks of 32 tokens. The tables are made on the host and lie on the
// device; without documents there are none, and the place of a chunk is arithmetic.
constexpr int wkv7_chunk_tokens = 32;

struct Wkv7Chunk {
  std::int64_t token;   // first token, counted through the batch
  std::int32_t length;  // 1 .. 32
  std::int32_t sequence;
};

struct Wkv7SequenceChunks {
  std::int64_t token;           // first token
  std::int64_t length;          // tokens
  std::int32_t first, count;    // its chunks
  std::int32_t initial, final;  // indices of its states, -1: none
  std::int64_t kept;            // states that the sequences before it keep in float32, sequences.h
};

struct Wkv7Chunks {
  std::int64_t T;  // tokens per row, used without tables
  std::int32_t chunks, sequences;
  const Wkv7Chunk*
      chunk_table;  // [chunks] on the device; null: every row is one sequence with its own states
  const Wkv7SequenceChunks* sequence_table;  // [sequences] on the device; null likewise
};

template <class Element>
struct Wkv7CudaInputs {
  const Element *r, *log_decay, *k, *v, *a, *b;  // [B, T, H, N]
  const float* initial_state;                    // [states, H, N, N] or null: zero
};

// ------------------------------------------------------------------------ bf16 ----
// Tensor cores: bf16 operands, fp32 sums and states. `states` [chunks, H, N, N] bf16 are the states before
// each chunk, which the backward pass needs; null: not kept. Bits do not depend on the device's schedule.

using Bf16 = std::uint16_t;  // the bits of a bfloat16

std::size_t wkv7_cuda_forward_workspace(const Wkv7Chunks& chunks, int H, int N);   // bytes
std::size_t wkv7_cuda_backward_workspace(const Wkv7Chunks& chunks, int H, int N);  // bytes

int wkv7_cuda_forward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<Bf16>& in, Bf16* y,
                      float* final_state, Bf16* states, void* workspace, void* stream);

template <class Element>
struct Wkv7CudaGradients {
  Element *r, *log_decay, *k, *v, *a, *b;  // [B, T, H, N]
  float* initial_state;                    // [states, H, N, N]; null: not wanted
};

// grad_final_state may be null (zero).
int wkv7_cuda_backward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<Bf16>& in,
                       const Bf16* states, const Bf16* grad_y, const float* grad_final_state,
                       const Wkv7CudaGradients<Bf16>& out, void* workspace, void* stream);

// ------------------------------------------------------------------------ fp32 ----
// Exact float32 arithmetic throughout, on the ordinary cores: for tests and for float32 training. The forward
// pass writes `kept_states` (null: not kept), which the backward pass reads: sequence after sequence, each
// [H, its kept states (sequences.h), N, N]. grad_y and grad_final_state may be null (zero). Nothing is
// written to the gradient of an initial state that no sequence starts from.

std::size_t wkv7_cuda_fp32_workspace(const Wkv7Chunks& chunks, int H, int N);  // bytes, of either pass

int wkv7_cuda_fp32_forward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<float>& in, float* y,
                           float* final_state, float* kept_states, void* workspace, void* stream);

int wkv7_cuda_fp32_backward(const Wkv7Chunks& chunks, int H, int N, const Wkv7CudaInputs<float>& in,
                            const float* kept_states, const float* grad_y, const float* grad_final_state,
                            const Wkv7CudaGradients<float>& out, void* workspace, void* stream);

}  // namespace wuneng::kernels
