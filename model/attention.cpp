#include "model/attention.h"

#include <cmath>

#include "kernels/norm.h"
#include "model/init.h"

namespace wuneng::model {

Attention::Attention(const ModelConfig& config, std::int64_t layer, bool head_norm,
                     const parallel::LayerBuilder& layers)
    : head_size_(config.attention.head_size),
      norm_eps_(config.norm_eps),
      attention_(config, layer, config.attention.heads, config.attention.resolved_kv_heads(), layers) {
  const std::int64_t H = config.attention.heads, kv_heads = config.attention.resolved_kv_heads();
  const parallel::Initializer init = init::normal(1.0 / std::sqrt(static_cast<double>(config.width)));
  query_ = layers.column_linear("query", config.width, H, head_size_, init, config.biases);
  key_ = layers.column_linear("key", config.width, kv_heads, head_size_, init, config.biases);
  value_ = layers.column_linear("value", config.width, kv_heads, head_size_, init, config.biases);
  if (head_norm)
    norm_weight_ = layers.split("norm.weight", {H, head_size_}, init::constant(1.0), {.dim = 0, .heads = H});
}

QueryKeyValue Attention::project(const at::Tensor& x) const {
  const auto heads = [&](const at::Tensor& channels) {
    return channels.view({x.size(0), x.size(1), -1, head_size_});
  };
  const std::vector<at::Tensor> out = parallel::column_linears({query_, key_, value_}, x);
  return {heads(out[0]), heads(out[1]), heads(out[2])};
}

at::Tensor Attention::heads(const QueryKeyValue& projected, const Documents& documents,
                            KeyValueCache* cache) const {
  const at::Tensor out = attention_(projected, documents, cache);
  return norm_weight_.defined() ? kernels::head_rms_norm(out.contiguous(), norm_weight_, norm_eps_) : out;
}

}  // namespace wuneng::model
