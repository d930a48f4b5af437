// RWKV-7 state heads: the time mix of arXiv 2503.14456 section 4.1 up to, and without, its output projection.
// By default exactly that; where the layer has attention heads, of H_kv keys and values of size d and outputs
// A:
//
//   kv: shared        keys and values are the attention heads' (before norm and positions), cut into slices
//   of N
//                     channels; each slice serves H_s N / (H_kv d) state heads
//   value: attention  v_j += [A of state head j's group of H_a / H_s attention heads] U_j, U from 0
//   read: dual        y = S W (S r), W [N, N] per head: what is read once asks again
//   negative_eigenvalues
//                     b = kappa alpha (1 + w): with one decay w for all channels, diag(w) - kappa b has the
//                     eigenvalue w - alpha (1 + w) > -1 beside w, where RWKV-7's w - alpha is above -0.46.
//                     A reflection swaps two things (arXiv 2411.12537, there for DeltaNet); twice alpha, as
//                     there, would reach w - 2 < -1 here, and the state grow without bound
//   boundary_states   y also reads the states at the last chunk boundaries (boundary_states.h)
//
// Heads are split over the tensor group with everything per head; token-shift mixes and low-rank down-factors
// are held by all ranks, which see their own heads' share of the gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/init.h"
#include "model/softmax_attention.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

// bias + f(x down) up, the low-rank maps of decay, in-context rate, value residual and gate.
struct LowRankMap {
  at::Tensor down;  // [C, rank], held by every rank of the tensor group, which see their own heads' share of
                    // its gradient
  at::Tensor up;    // [rank, H * N], split by head
  at::Tensor bias;  // [H * N], split by head; undefined: none
};

class StateHeads {
 public:
  // `first`: the first layer that has state heads; its values feed the value residual of the others.
  StateHeads(const ModelConfig& config, init::Depth depth, bool first, const parallel::LayerBuilder& layers);

  // x [B, T, C] -> this rank's heads [B, T, H, N]. `projected` and `attention` [B, T, H_a, d] are the
  // attention heads' projections and outputs (undefined without them). `first_values` [B, T, H, N] is set by
  // the first layer and read by the others.
  at::Tensor operator()(const at::Tensor& x, const QueryKeyValue& projected, const at::Tensor& attention,
                        const Documents& documents, LayerState* state, at::Tensor& first_values) const;

 private:
  at::Tensor values(const at::Tensor& mixed, const at::Tensor& shared, const at::Tensor& attention,
                    at::Tensor& first_values) const;
  LowRankMap low_rank_map(const std::string& name, init::LowRank kind, const parallel::Initializer& bias,
                          const ModelConfig& config, const parallel::LayerBuilder& layers) const;

  StateConfig config_;
  bool first_;
  at::Tensor mix_;                                   // [6, C] in the order r, w, k, v, a, g
  parallel::ColumnLinear receptance_, key_, value_;  // no key_ and value_ with shared ones
  at::Tensor from_attention_;                        // [H, (H_a / H) d, N]: U
  at::Tensor reread_;                                // [H, N, N]: W of the dual read
  LowRankMap decay_, rate_, value_residual_, gate_;
  at::Tensor removal_, replacement_, bonus_;  // [H, N]: k_k, k_a, r_k of the official code
  at::Tensor norm_weight_, norm_bias_;        // [H, N]
};

}  // namespace wuneng::model
