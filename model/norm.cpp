#include "model/norm.h"

#include "kernels/norm.h"
#include "model/init.h"

namespace wuneng::model {

Norm::Norm(const ModelConfig& config, const parallel::LayerBuilder& layers) : eps_(config.norm_eps) {
  weight_ = layers.replicated("weight", {config.width}, init::constant(1.0), parallel::Used::in_stream);
  if (config.norm == NormKind::layer)
    bias_ = layers.replicated("bias", {config.width}, init::constant(0.0), parallel::Used::in_stream);
}

at::Tensor Norm::operator()(const at::Tensor& x) const {
  return bias_.defined() ? kernels::layer_norm(x, weight_, bias_, eps_) : kernels::rms_norm(x, weight_, eps_);
}

}  // namespace wuneng::model
