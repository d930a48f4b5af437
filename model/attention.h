// Causal softmax attention heads with rotary positions and grouped keys and values (arXiv 1706.03762,
// 2104.09864, 2305.13245).
#pragma once

#include <ATen/core/Tensor.h>

#include "model/config.h"
#include "model/documents.h"
#include "model/state.h"
#include "parallel/layers.h"

namespace wuneng::model {

class Attention {
 public:
  // `head_norm`: an RMS norm of each head's output, so that the heads can be fused with state heads of
  // another magnitude.
  Attention(const ModelConfig& config, bool head_norm, const parallel::LayerBuilder& layers);

  // x [B, T, C] -> this rank's heads [B, T, H * N]. A state is read (tokens before x) and brought up to date.
  at::Tensor operator()(const at::Tensor& x, const Documents& documents, LayerState* state) const;

 private:
  at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                    const Documents& documents) const;

  AttentionConfig config_;
  double norm_eps_;
  parallel::ColumnLinear query_, key_, value_;
  at::Tensor norm_weight_;  // [H, N]
};

}  // namespace wuneng::model
