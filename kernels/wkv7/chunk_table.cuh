// Where the chunks and sequences of cuda.h lie: in the tables, or by arithmetic where there are none.
#pragma once

#include "kernels/device/warp.cuh"
#include "kernels/wkv7/cuda.h"

namespace wuneng::kernels {

WUNENG_DEVICE std::int64_t chunks_per_row(const Wkv7Chunks& chunks) {
  return (chunks.T + wkv7_chunk_tokens - 1) / wkv7_chunk_tokens;
}

WUNENG_DEVICE Wkv7SequenceChunks sequence_at(const Wkv7Chunks& chunks, std::int64_t i) {
  if (chunks.sequence_table) return chunks.sequence_table[i];
  const std::int64_t count = chunks_per_row(chunks);
  Wkv7SequenceChunks s{};
  s.token = i * chunks.T;
  s.length = chunks.T;
  s.first = static_cast<std::int32_t>(i * count);
  s.count = static_cast<std::int32_t>(count);
  s.initial = s.final = static_cast<std::int32_t>(i);
  return s;
}

// The tokens of chunk i of a sequence, at most 32.
WUNENG_DEVICE int chunk_length(const Wkv7SequenceChunks& s, int i) {
  const std::int64_t left = s.length - static_cast<std::int64_t>(i) * wkv7_chunk_tokens;
  return left < wkv7_chunk_tokens ? static_cast<int>(left) : wkv7_chunk_tokens;
}

WUNENG_DEVICE Wkv7Chunk chunk_at(const Wkv7Chunks& chunks, std::int64_t i) {
  if (chunks.chunk_table) return chunks.chunk_table[i];
  const std::int64_t count = chunks_per_row(chunks), sequence = i / count;
  const int chunk = static_cast<int>(i % count);
  const Wkv7SequenceChunks s = sequence_at(chunks, sequence);
  return {s.token + static_cast<std::int64_t>(chunk) * wkv7_chunk_tokens, chunk_length(s, chunk),
          static_cast<std::int32_t>(sequence)};
}

}  // namespace wuneng::kernels
