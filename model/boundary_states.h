// Multi-token state processing beyond the recurrence: with `model.state.boundary_states: n` a token also
// reads the last n states that stood at a chunk boundary of its document. Chunks are 64 tokens, counted from
// the document's start, so a document's outputs do not depend on what it is packed with. Of each state head,
// with B_c the state before the first token of chunk c, a token of chunk c reads
//
//   y_t = S_t r_t + sum_{i<n} p_ti B_{c-i} r_t,   p_t = softmax over i of (r_t . kbar_{c-i}), and a null slot
//   of 0
//
// where kbar_c is the mean replacement key of the chunk before B_c. There is nothing to read before the first
// boundary. It has no parameters, and everything is per head: it is sharded with the heads.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/state_head.h"
#include "model/documents.h"
#include "model/state.h"

namespace wuneng::model {

struct BoundaryRead {
  at::Tensor y;            // [B, T, H, N]
  at::Tensor final_state;  // [B, H, N, N]
  BoundaryMemory memory;   // of each row's last document
};

// WKV-7 of r and v [B, T, H, N] with `in`, reading `count` >= 1 boundary states too. `initial_state` [B, H,
// N, N] and `memory` belong to the rows' earlier tokens; undefined: there were none. Rows that hold documents
// are computed one document after the other.
BoundaryRead read_with_boundaries(std::int64_t count, const at::Tensor& r, const kernels::StateHeadInputs& in,
                                  const at::Tensor& v, const Documents& documents,
                                  const at::Tensor& initial_state, const BoundaryMemory& memory);

}  // namespace wuneng::model
