// Causal softmax attention over given queries, keys and values (arXiv 1706.03762): norm of queries and keys,
// rotary positions (2104.09864), sliding window (2004.05150), logit soft-cap, key-value cache. It has no
// projections: attention heads and middle heads of the kind `key` bring their own.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

inline constexpr std::int64_t window_block = 128;  // queries that a window's keys are gathered for at once

// Before norm and positions: q [B, T, H, N]; k, v [B, T, H_kv, N], where H_kv divides H.
struct QueryKeyValue {
  at::Tensor q, k, v;
};

class SoftmaxAttention {
 public:
  // `layer` decides whether the window holds. `heads` and `kv_heads` (global) size the weights of the
  // optional norms, which are split by head.
  SoftmaxAttention(const ModelConfig& config, std::int64_t layer, std::int64_t heads, std::int64_t kv_heads,
                   const parallel::LayerBuilder& layers);

  // -> [B, T, H, N]. A cache is read (tokens before these) and brought up to date; with a window it keeps
  // only what later tokens can see.
  at::Tensor operator()(const QueryKeyValue& in, const Documents& documents, KeyValueCache* cache) const;

 private:
  at::Tensor positioned(const at::Tensor& x, const at::Tensor& norm_weight, std::int64_t first) const;
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, std::int64_t first_key,
                    const Documents& documents) const;
  at::Tensor attend_document(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;
  at::Tensor attend_masked(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) const;

  AttentionConfig config_;
  std::int64_t window_;
  double norm_eps_;
  at::Tensor query_norm_, key_norm_;  // [H, N], [H_kv, N]; undefined without qk_norm
};

}  // namespace wuneng::model
