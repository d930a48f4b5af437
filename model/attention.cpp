#include "model/attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>

#include "kernels/norm.h"
#include "kernels/rope.h"
#include "model/init.h"

namespace wuneng::model {
namespace {

// Queries are the last tokens of the keys' document: q [B, H, T, N], k and v [B, H_kv, P + T, N].
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const std::int64_t queries = q.size(2), keys = k.size(2);
  const bool grouped = k.size(1) != q.size(1);
  const bool square = queries == keys;
  c10::optional<at::Tensor> mask;
  if (!square &&
      queries > 1) {  // the operator's own causal mask is aligned to the first key, ours to the last
    const at::Tensor q_position = at::arange(keys - queries, keys, at::kLong).unsqueeze(1);
    mask = at::arange(keys, at::kLong).unsqueeze(0).le(q_position);
  }
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, square, c10::nullopt, grouped);
}

}  // namespace

Attention::Attention(const ModelConfig& config, bool head_norm, const parallel::LayerBuilder& layers)
    : config_(config.attention), norm_eps_(config.norm_eps) {
  const std::int64_t kv_heads = config_.resolved_kv_heads();
  const double std = 1.0 / std::sqrt(static_cast<double>(config.width));
  query_ = layers.column_linear("query", config.width, config_.heads, config_.head_size, init::normal(std));
  key_ = layers.column_linear("key", config.width, kv_heads, config_.head_size, init::normal(std));
  value_ = layers.column_linear("value", config.width, kv_heads, config_.head_size, init::normal(std));
  if (head_norm)
    norm_weight_ = layers.split("norm.weight", {config_.heads, config_.head_size}, init::constant(1.0),
                                {.dim = 0, .heads = config_.heads});
}

at::Tensor Attention::operator()(const at::Tensor& x, const Documents& documents, LayerState* state) const {
  const std::int64_t B = x.size(0), T = x.size(1), N = config_.head_size;
  const at::Tensor q = kernels::rope(query_(x).view({B, T, -1, N}), documents.position(), config_.rope_base);
  at::Tensor k = kernels::rope(key_(x).view({B, T, -1, N}), documents.position(), config_.rope_base);
  at::Tensor v = value_(x).view({B, T, -1, N});
  if (state) {
    if (state->keys.defined()) {
      k = at::cat({state->keys, k}, 1);
      v = at::cat({state->values, v}, 1);
    }
    state->keys = k;
    state->values = v;
  }
  at::Tensor out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), documents)
                       .transpose(1, 2);  // [B, T, H, N]
  if (norm_weight_.defined()) out = kernels::head_rms_norm(out.contiguous(), norm_weight_, norm_eps_);
  return out.reshape({B, T, -1});
}

at::Tensor Attention::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const Documents& documents) const {
  if (documents.uniform()) {
    const std::int64_t begin = documents.stretches().front().begin;
    const std::int64_t keys = k.size(2) - begin;
    return causal_attention(q, k.narrow(2, begin, keys), v.narrow(2, begin, keys));
  }
  std::vector<at::Tensor> rows, parts;
  for (const Documents::Stretch& s : documents.stretches()) {
    const std::int64_t keys = documents.position() + s.last - s.begin;
    const auto part = [&](const at::Tensor& x, std::int64_t begin, std::int64_t length) {
      return x.narrow(0, s.row, 1).narrow(2, begin, length);
    };
    parts.push_back(
        causal_attention(part(q, s.first, s.last - s.first), part(k, s.begin, keys), part(v, s.begin, keys)));
    if (s.last < q.size(2)) continue;
    rows.push_back(at::cat(parts, 2));
    parts.clear();
  }
  return at::cat(rows, 0);
}

}  // namespace wuneng::model
