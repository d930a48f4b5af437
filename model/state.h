// What a model remembers of the tokens it has seen: carried from call to call, it makes any split of a
// sequence give the same output.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wuneng::model {

// Keys and values of the tokens that later ones still see, after norm and positions.
struct KeyValueCache {
  at::Tensor keys, values;  // [B, P, H_kv, N], the last P tokens seen; undefined: none
};

// Of a layer's state heads that also read earlier states (boundary_states.h).
struct BoundaryMemory {
  at::Tensor states;   // [B, n, H_s, N, N] at the last n chunk boundaries, newest first
  at::Tensor keys;     // [B, n, H_s, N] mean key of the chunk before each
  at::Tensor key_sum;  // [B, H_s, N] of the tokens since the last boundary
};

struct LayerState {
  KeyValueCache attention, middle;
  at::Tensor mixer_previous;  // [B, C] the last token's input of the state heads' token shift
  at::Tensor wkv;             // [B, H_s, N, N]
  BoundaryMemory boundaries;
  at::Tensor ffn_previous;  // [B, C] the last token's input of the channel mix
};

struct ModelState {
  std::int64_t position = 0;  // tokens seen, per row
  std::vector<std::int64_t>
      document_begin;  // [B] position at which each row's present document began; empty: 0
  std::vector<LayerState> layers;
};

}  // namespace wuneng::model
