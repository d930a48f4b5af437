#include "model/head_pairs.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/lerp.h>
#include <ATen/ops/tensor.h>

#include <cmath>

#include "model/init.h"

namespace wuneng::model {
namespace {

constexpr double first_gate_bias = 2.0;  // a new gate lets 88 % of the attention head through

parallel::Initializer scaled_normal(std::int64_t inputs) {
  return init::normal(1.0 / std::sqrt(static_cast<double>(inputs)));
}

std::vector<std::int64_t> column(const std::vector<HeadPair>& pairs, std::int64_t HeadPair::*member) {
  std::vector<std::int64_t> values;
  for (const HeadPair& pair : pairs) values.push_back(pair.*member);
  return values;
}

}  // namespace

std::vector<HeadPair> pair_heads(std::int64_t heads, std::int64_t attention_heads, std::int64_t state_heads) {
  std::vector<HeadPair> pairs;
  for (std::int64_t i = 0; i < heads; ++i)
    pairs.push_back({i * attention_heads / heads, i * state_heads / heads});
  return pairs;
}

HeadPairs::HeadPairs(PairMode mode, std::int64_t count, const std::vector<HeadPair>& pairs, std::int64_t d,
                     std::int64_t N, const parallel::LayerBuilder& layers)
    : mode_(mode), pairs_(pairs) {
  const parallel::Split by_pair{.dim = 0, .heads = count};
  if (mode == PairMode::concat)
    joint_ = layers.split("joint", {count, d + N, d}, scaled_normal(d + N), by_pair);
  if (mode == PairMode::gated) joint_ = layers.split("gate", {count, d + N, d}, init::constant(0.0), by_pair);
  if (mode != PairMode::concat) {
    lift_ = layers.split("lift", {count, N, d}, scaled_normal(N), by_pair);
    const bool gated = mode == PairMode::gated;
    channel_ = layers.split(gated ? "gate_bias" : "beta", {count, d},
                            init::constant(gated ? first_gate_bias : 0.0), by_pair);
  }
}

at::Tensor HeadPairs::operator()(const at::Tensor& attention, const at::Tensor& state) const {
  const at::Tensor a = choose_heads(attention, column(pairs_, &HeadPair::attention)),
                   r = choose_heads(state, column(pairs_, &HeadPair::state));
  if (mode_ == PairMode::concat) return per_head_linear(at::cat({a, r}, -1), joint_);
  const at::Tensor lifted = per_head_linear(r, lift_);
  if (mode_ == PairMode::additive) return a.add(lifted.mul(channel_));
  const at::Tensor gate = per_head_linear(at::cat({a, r}, -1), joint_).add(channel_).sigmoid();
  return at::lerp(lifted, a, gate);
}

at::Tensor choose_heads(const at::Tensor& heads, const std::vector<std::int64_t>& indices) {
  bool all = heads.size(2) == static_cast<std::int64_t>(indices.size());
  for (std::size_t i = 0; i < indices.size(); ++i) all = all && indices[i] == static_cast<std::int64_t>(i);
  return all ? heads : heads.index_select(2, at::tensor(indices).to(heads.device()));
}

at::Tensor per_head_linear(const at::Tensor& x, const at::Tensor& weight) {
  const std::int64_t B = x.size(0), T = x.size(1), H = x.size(2);
  const at::Tensor by_head = x.flatten(0, 1).transpose(0, 1);  // [H, B T, N]
  return at::bmm(by_head, weight).transpose(0, 1).view({B, T, H, weight.size(2)});
}

}  // namespace wuneng::model
