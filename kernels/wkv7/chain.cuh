// wkv7_chain: the recurrence over the chunks of a sequence (workspace.cuh), of the state S forwards or of its
// gradient g backwards, with the outputs O on the way. Value rows of S never meet: a block has 64 of them,
// each of its four warps 16, in fp32 registers; nothing but the tiles' double buffer is shared.
#pragma once

#include "kernels/wkv7/chunk_table.cuh"
#include "kernels/wkv7/workspace.cuh"

namespace wuneng::kernels {

constexpr int chain_threads = 128;
constexpr int warp_rows = 16;  // value rows of a warp
static_assert(value_rows == chain_threads / device::warp_size * warp_rows);

template <int N, bool backward>
struct ChainArguments {
  Wkv7Chunks chunks;
  int H;
  const Record<N, backward>* records;  // [chunks, H]
  const device::bf16* value;           // V; backward dO; [B, T, H, N]
  device::bf16* y;                     // O, forward only
  device::bf16* states;  // [chunks, H, N, N] S before, backward g after each chunk; null: not kept
  const float* start;    // [states, H, N, N] initial S, backward g of the final S; null: zero
  float* end;            // [states, H, N, N] final S, backward g of the initial S; null: not kept
};

template <int N, bool backward>
struct ChainStage {
  std::conditional_t<backward, ChainTiles<N>, ForwardRecord<N>> tiles;
  device::Tile<chunk_tokens, value_rows> value;  // V, dO; replaced by O
};

template <int N, bool backward>
struct ChainShared {
  ChainStage<N, backward> stages[2];
  device::Tile<warp_rows, 64> states[chain_threads / device::warp_size];  // on their way to global memory
};

// The 16 value rows of S of a warp.
template <int N>
using StateRows = device::Block<warp_rows, N>;

// Two neighbouring floats at once.
struct alignas(8) FloatPair {
  float x, y;
};

template <int N>
WUNENG_DEVICE void load(StateRows<N>& state, const float* from) {
  state.each_pair([&](float& x, float& y, int i, int j) {
    const FloatPair pair = *reinterpret_cast<const FloatPair*>(from + i * N + j);
    x = pair.x, y = pair.y;
  });
}

template <int N>
WUNENG_DEVICE void store(StateRows<N>& state, float* to) {
  state.each_pair([&](float x, float y, int i, int j) {
    *reinterpret_cast<FloatPair*>(to + i * N + j) = {x, y};
  });
}

// The state in bf16 to global memory, through shared memory so that whole pieces are stored.
template <int N>
WUNENG_DEVICE void store(const StateRows<N>& state, device::Tile<warp_rows, 64>& buffer, device::bf16* to) {
#pragma unroll
  for (int column = 0; column < N; column += 64) {
    device::part<64>(state, column).store(buffer, 0, 0);
    device::sync_warp();
    device::store_rows<device::warp_size, 64>(buffer, 0, to + column, N, warp_rows, device::lane());
    device::sync_warp();
  }
}

template <int N, bool backward>
struct Chain {
  const ChainArguments<N, backward>& in;
  ChainShared<N, backward>& shared;
  Wkv7SequenceChunks sequence;
  int head, first_row;  // of the block's value rows

  WUNENG_DEVICE int own_rows() const { return warp_rows * device::warp(); }  // in the block
  WUNENG_DEVICE std::int64_t stride() const { return static_cast<std::int64_t>(in.H) * N; }
  // Where things lie: what there is one of per chunk and head, a chunk's tokens, this warp's rows of a state.
  WUNENG_DEVICE std::int64_t record(int chunk) const {
    return (static_cast<std::int64_t>(sequence.first) + chunk) * in.H + head;
  }
  WUNENG_DEVICE std::int64_t tokens(int chunk) const {
    return (sequence.token + static_cast<std::int64_t>(chunk) * chunk_tokens) * stride() + head * N +
           first_row;
  }
  WUNENG_DEVICE std::int64_t state(std::int64_t index) const {
    return (index * N + first_row + own_rows()) * N;
  }

  WUNENG_DEVICE void start_loading(int chunk, ChainStage<N, backward>& stage) const {
    if constexpr (backward)
      device::start_copy<chain_threads>(stage.tiles, &in.records[record(chunk)].chain);
    else
      device::start_copy<chain_threads>(stage.tiles, &in.records[record(chunk)]);
    device::start_copy<chain_threads>(stage.value, in.value + tokens(chunk), stride(),
                                      chunk_length(sequence, chunk));
    device::copy_async_commit();
  }

  // O^T = S R~^T + V^T Ark^T + X^T Arb^T, written over V: a warp's value channels are read by itself only.
  WUNENG_DEVICE void output(int chunk, ChainStage<N, backward>& stage,
                            const device::Fragments<warp_rows, N>& state,
                            const device::Fragments<warp_rows, chunk_tokens>& value,
                            const device::Fragments<warp_rows, chunk_tokens>& x) const {
    const OutputTiles<N>& tiles = stage.tiles.output;
    device::Block<warp_rows, chunk_tokens> o{};
    device::add_product<N>(o, state, device::transposed(tiles.r));
    device::add_product<chunk_tokens>(o, value, device::transposed(tiles.ark));
    device::add_product<chunk_tokens>(o, x, device::transposed(tiles.arb));
    device::sync_warp();
    o.each(
        [&](float y, int row, int token) { stage.value.at(token, own_rows() + row) = device::to_bf16(y); });
    device::sync_warp();
    device::store_rows<device::warp_size, warp_rows>(stage.value, own_rows(),
                                                     in.y + tokens(chunk) + own_rows(), stride(),
                                                     chunk_length(sequence, chunk), device::lane());
  }

  // The state over one chunk.
  WUNENG_DEVICE void step(int chunk, ChainStage<N, backward>& stage, StateRows<N>& state_rows) const {
    using device::plain, device::transposed, device::add_product;
    const ChainTiles<N>& tiles = [&]() -> const ChainTiles<N>& {
      if constexpr (backward)
        return stage.tiles;
      else
        return stage.tiles.chain;
    }();
    if (in.states) store<N>(state_rows, shared.states[device::warp()], in.states + state(record(chunk)));
    const auto value = device::fragments<warp_rows, chunk_tokens>(transposed(stage.value, 0, own_rows()));
    const auto before = rounded(state_rows);
    device::Block<warp_rows, chunk_tokens> sum{};
    add_product<N>(sum, before, transposed(tiles.w));
    add_product<chunk_tokens>(sum, value, transposed(tiles.a));
    state_rows.each([&](float& s, int, int channel) { s *= tiles.gamma[channel]; });
    add_product<chunk_tokens>(state_rows, value, plain(tiles.k));
    const auto x = rounded(sum);
    add_product<chunk_tokens>(state_rows, x, plain(tiles.b));
    if constexpr (!backward) output(chunk, stage, before, value, x);
  }

  WUNENG_DEVICE void run() const {
    const int start = backward ? sequence.final : sequence.initial;
    const int end = backward ? sequence.initial : sequence.final;
    const auto chunk = [&](int i) { return backward ? sequence.count - 1 - i : i; };
    start_loading(chunk(0), shared.stages[0]);
    StateRows<N> rows{};
    if (in.start && start >= 0)
      load<N>(rows, in.start + state(static_cast<std::int64_t>(start) * in.H + head));
#pragma unroll 1
    for (int i = 0; i < sequence.count; ++i) {
      device::copy_async_wait<0>();
      device::sync_block();  // the chunk is there, and every warp is done with the one before it
      if (i + 1 < sequence.count) start_loading(chunk(i + 1), shared.stages[(i + 1) % 2]);
      step(chunk(i), shared.stages[i % 2], rows);
    }
    if (in.end && end >= 0) store<N>(rows, in.end + state(static_cast<std::int64_t>(end) * in.H + head));
  }
};

// Blocks on a multiprocessor at a time.
constexpr int chain_blocks(int N) { return N == 64 ? 3 : 2; }
static_assert(blocks_fit<ChainShared<64, false>>(chain_blocks(64)));
static_assert(blocks_fit<ChainShared<128, false>>(chain_blocks(128)));

// Grid (sequences * H, N / 64), chain_threads threads.
//
// budget wkv7_chain<64, false>: registers 168, HMMA 88
// budget wkv7_chain<64, true>: registers 168, HMMA 56
// budget wkv7_chain<128, false>: registers 255, HMMA 152
// budget wkv7_chain<128, true>: registers 255, HMMA 104
template <int N, bool backward>
__global__ void __launch_bounds__(chain_threads, chain_blocks(N)) wkv7_chain(ChainArguments<N, backward> in) {
  auto& shared = device::shared_memory<ChainShared<N, backward>>();
  const int head = static_cast<int>(blockIdx.x % in.H), first_row = static_cast<int>(blockIdx.y) * value_rows;
  Chain<N, backward>{in, shared, sequence_at(in.chunks, blockIdx.x / in.H), head, first_row}.run();
}

}  // namespace wuneng::kernels
