#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "model/config.h"
#include "parallel/layers.h"

namespace wuneng::model {

// RMSNorm or LayerNorm over the width, of the residual stream.
class Norm {
 public:
  Norm(const ModelConfig& config, const parallel::LayerBuilder& layers);
  at::Tensor operator()(const at::Tensor& x) const;  // [..., C] -> [..., C]

 private:
  at::Tensor weight_, bias_;  // [C]; no bias for RMSNorm
  double eps_;
};

}  // namespace wuneng::model
