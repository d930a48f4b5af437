// Attention heads: projections, softmax attention with grouped keys and values (arXiv 2305.13245), and an
// optional norm of each head. Queries, keys and values are split by head over the tensor group.
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/softmax_attention.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

class Attention {
 public:
  // `head_norm`: an RMS norm of each head's output, so that the heads can be fused with state heads of
  // another magnitude.
  Attention(const ModelConfig& config, std::int64_t layer, bool head_norm,
            const parallel::LayerBuilder& layers);

  // x [B, T, C] -> this rank's queries, keys and values.
  QueryKeyValue project(const at::Tensor& x) const;

  // -> this rank's heads [B, T, H, N].
  at::Tensor heads(const QueryKeyValue& projected, const Documents& documents, KeyValueCache* cache) const;

 private:
  std::int64_t head_size_;
  double norm_eps_;
  parallel::ColumnLinear query_, key_, value_;
  SoftmaxAttention attention_;
  at::Tensor norm_weight_;  // [H, N]
};

}  // namespace wuneng::model
