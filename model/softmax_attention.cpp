#include "model/softmax_attention.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>

#include <cmath>
#include <limits>

#include "kernels/attention.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "model/init.h"

namespace wuneng::model {
namespace {

constexpr std::int64_t shortest_tiled = 32;  // tokens; below, tiles of 64 would be mostly empty

// Which keys each query sees, [queries, keys], on `device`: queries are the last ones of the keys; window 0:
// all before.
at::Tensor visible(std::int64_t queries, std::int64_t keys, std::int64_t window, at::Device device) {
  const at::TensorOptions options = at::device(device).dtype(at::kLong);
  const at::Tensor distance =
      at::arange(keys - queries, keys, options).unsqueeze(1).sub(at::arange(keys, options).unsqueeze(0));
  const at::Tensor causal = distance.ge(0);
  return window > 0 ? causal.logical_and(distance.lt(window)) : causal;
}

// Softmax attention with capped scores, written out: the operator of LibTorch cannot cap.
at::Tensor capped_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const at::Tensor& mask, double cap) {
  const std::int64_t B = q.size(0), H_kv = k.size(1), group = q.size(1) / H_kv, N = q.size(3);
  const at::Tensor grouped = q.reshape({B, H_kv, group * q.size(2), N});
  at::Tensor scores = at::matmul(grouped, k.transpose(-1, -2)).div(std::sqrt(static_cast<double>(N)));
  scores = scores.div(cap).tanh().mul(cap).view({B, H_kv, group, q.size(2), k.size(2)});
  scores = scores.masked_fill(mask.logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor weights = at::softmax(scores, -1).view({B, H_kv, group * q.size(2), k.size(2)});
  return at::matmul(weights, v).view({B, q.size(1), q.size(2), N});
}

double stretched_base(const AttentionConfig& config) {
  if (config.rope_scaling != RopeScaling::ntk) return config.rope_base;
  const auto N = static_cast<double>(config.head_size);  // the slowest pair turns `factor` times slower
  return config.rope_base * std::pow(config.rope_factor, N / std::max(1.0, N - 2.0));
}

}  // namespace

SoftmaxAttention::SoftmaxAttention(const ModelConfig& config, std::int64_t layer, std::int64_t heads,
                                   std::int64_t kv_heads, const parallel::LayerBuilder& layers)
    : config_(config.attention), window_(config.attention.window_of(layer)), norm_eps_(config.norm_eps) {
  if (!config_.qk_norm) return;
  const std::int64_t N = config_.head_size;
  query_norm_ =
      layers.split("query_norm.weight", {heads, N}, init::constant(1.0), {.dim = 0, .heads = heads});
  key_norm_ =
      layers.split("key_norm.weight", {kv_heads, N}, init::constant(1.0), {.dim = 0, .heads = kv_heads});
}

at::Tensor SoftmaxAttention::positioned(const at::Tensor& x, const at::Tensor& norm_weight,
                                        std::int64_t first) const {
  const at::Tensor normal =
      norm_weight.defined() ? kernels::head_rms_norm(x.contiguous(), norm_weight, norm_eps_) : x;
  if (config_.positions == Positions::none) return normal;
  const double step = config_.rope_scaling == RopeScaling::linear ? 1.0 / config_.rope_factor : 1.0;
  return kernels::rope(normal.contiguous(), first, stretched_base(config_), step);
}

at::Tensor SoftmaxAttention::operator()(const QueryKeyValue& in, const Documents& documents,
                                        KeyValueCache* cache) const {
  const std::int64_t position = documents.position();
  const at::Tensor q = positioned(in.q, query_norm_, position);
  at::Tensor k = positioned(in.k, key_norm_, position), v = in.v;
  if (cache) {
    if (cache->keys.defined()) {
      k = at::cat({cache->keys, k}, 1);
      v = at::cat({cache->values, v}, 1);
    }
    const std::int64_t kept = window_ > 0 ? std::min(k.size(1), window_ - 1) : k.size(1);
    const auto last = [&](const at::Tensor& x) {
      const at::Tensor part = x.narrow(1, x.size(1) - kept, kept);
      return kept < x.size(1) ? part.clone() : part;  // a view would keep the whole alive
    };
    *cache = {last(k), last(v)};
  }
  const std::int64_t first_key = position + in.q.size(1) - k.size(1);
  return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), first_key, documents)
      .transpose(1, 2);
}

// q [B, H, T, N]; k, v [B, H_kv, P + T, N], the first of them at absolute position `first_key`.
at::Tensor SoftmaxAttention::attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                    std::int64_t first_key, const Documents& documents) const {
  // A document's keys that are still there, as many as its stretch can see.
  const auto keys_from = [&](std::int64_t begin) { return std::max<std::int64_t>(0, begin - first_key); };
  if (documents.uniform()) {
    const std::int64_t from = keys_from(documents.stretches().front().begin), keys = k.size(2) - from;
    return attend_document(q, k.narrow(2, from, keys), v.narrow(2, from, keys));
  }
  std::vector<at::Tensor> rows, parts;
  for (const Documents::Stretch& s : documents.stretches()) {
    const std::int64_t from = keys_from(s.begin), to = documents.position() + s.last - first_key;
    const auto part = [&](const at::Tensor& x, std::int64_t begin, std::int64_t end) {
      return x.narrow(0, s.row, 1).narrow(2, begin, end - begin);
    };
    parts.push_back(attend_document(part(q, s.first, s.last), part(k, from, to), part(v, from, to)));
    if (s.last < q.size(2)) continue;
    rows.push_back(at::cat(parts, 2));
    parts.clear();
  }
  return at::cat(rows, 0);
}

// One document: queries are the last tokens of the keys. With a window, queries go block by block and see no
// more keys than they need: the cost grows with T, not with its square.
at::Tensor SoftmaxAttention::attend_document(const at::Tensor& q, const at::Tensor& k,
                                             const at::Tensor& v) const {
  const std::int64_t queries = q.size(2), keys = k.size(2), past = keys - queries;
  if (window_ == 0 || keys <= window_) return attend_masked(q, k, v);
  std::vector<at::Tensor> blocks;
  for (std::int64_t begin = 0; begin < queries; begin += window_block) {
    const std::int64_t count = std::min(window_block, queries - begin);
    const std::int64_t from = std::max<std::int64_t>(0, past + begin - window_ + 1),
                       to = past + begin + count;
    blocks.push_back(
        attend_masked(q.narrow(2, begin, count), k.narrow(2, from, to - from), v.narrow(2, from, to - from)));
  }
  return blocks.size() == 1 ? blocks[0] : at::cat(blocks, 2);
}

at::Tensor SoftmaxAttention::attend_masked(const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v) const {
  const std::int64_t queries = q.size(2), keys = k.size(2);
  const bool windowed = window_ > 0 && keys > window_;
  if (config_.softcap > 0.0)
    return capped_attention(q, k, v, visible(queries, keys, windowed ? window_ : 0, q.device()),
                            config_.softcap);
  const bool square = queries == keys && !windowed;
  if (square && queries >= shortest_tiled) {
    const at::Tensor rows = q.transpose(1, 2), key_rows = k.transpose(1, 2);
    if (kernels::causal_attention_takes(rows, key_rows))
      return kernels::causal_attention(rows, key_rows, v.transpose(1, 2)).transpose(1, 2);
  }
  c10::optional<at::Tensor> mask;
  if (!square && (queries > 1 || windowed))  // LibTorch's own causal mask is aligned to the first key
    mask = visible(queries, keys, windowed ? window_ : 0, q.device());
  return at::scaled_dot_product_attention(q, k, v, mask, 0.0, square, c10::nullopt, k.size(1) != q.size(1));
}

}  // namespace wuneng::model
