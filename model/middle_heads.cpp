#include "model/middle_heads.h"

#include <ATen/ops/cat.h>

#include <cmath>

#include "common/check.h"
#include "kernels/norm.h"
#include "model/init.h"

namespace wuneng::model {

MiddleHeads::MiddleHeads(const ModelConfig& config, std::int64_t layer, const parallel::LayerBuilder& layers)
    : count_(config.middle.resolved_heads(config.attention)), norm_eps_(config.norm_eps) {
  const std::int64_t d = config.attention.head_size, N = config.state.head_size;
  pairs_ = pair_heads(layers.local(count_), layers.local(config.attention.heads),
                      layers.local(config.state.heads));
  const parallel::Split by_head{.dim = 0, .heads = count_};
  switch (config.middle.mode) {
    case MiddleMode::none:
      WN_CHECK(false, "MiddleHeads: the configuration has none");
    case MiddleMode::concat:
      add_part(PairMode::concat, "concat", 0, 1, config, layers);
      break;
    case MiddleMode::additive:
      add_part(PairMode::additive, "additive", 0, 1, config, layers);
      break;
    case MiddleMode::gated:
      add_part(PairMode::gated, "gated", 0, 1, config, layers);
      break;
    case MiddleMode::mixed:
      add_part(PairMode::concat, "concat", 0, 3, config, layers);
      add_part(PairMode::additive, "additive", 1, 3, config, layers);
      add_part(PairMode::gated, "gated", 2, 3, config, layers);
      break;
    case MiddleMode::key:
      key_attention_.emplace(config, layer, count_, count_, layers.in("key"));
      lift_ = layers.split("key.lift", {count_, N, d}, init::normal(1.0 / std::sqrt(static_cast<double>(N))),
                           by_head);
      beta_ = layers.split("key.beta", {count_, d}, init::constant(0.0), by_head);
      break;
  }
  if (config.middle.norm)
    norm_weight_ = layers.split("norm.weight", {count_, d}, init::constant(1.0), by_head);
}

// The middle heads first, first + step, ... of the whole model are of this kind. A rank has its share of each
// kind, because check() makes it hold a multiple of `step` heads unless it holds them all.
void MiddleHeads::add_part(PairMode mode, const char* name, std::int64_t first, std::int64_t step,
                           const ModelConfig& config, const parallel::LayerBuilder& layers) {
  const std::int64_t of_model = (count_ - first + step - 1) / step;
  WN_REQUIRE(
      layers.local(count_) == count_ || layers.local(count_) % step == 0,
      "model.middle.heads = {}: {} middle heads on each of {} ranks of the tensor group are no multiple of "
      "{}, so that the ranks would hold different kinds; choose a multiple of {}",
      count_, layers.local(count_), layers.tensor_group().size(), step, step * layers.tensor_group().size());
  std::vector<std::int64_t> heads;
  std::vector<HeadPair> pairs;
  for (std::int64_t m = first; m < static_cast<std::int64_t>(pairs_.size()); m += step) {
    heads.push_back(m);
    pairs.push_back(pairs_[static_cast<std::size_t>(m)]);
  }
  parts_.push_back({heads, HeadPairs(mode, of_model, pairs, config.attention.head_size,
                                     config.state.head_size, layers.in(name))});
}

at::Tensor MiddleHeads::operator()(const at::Tensor& attention, const at::Tensor& state,
                                   const QueryKeyValue& projected, const Documents& documents,
                                   KeyValueCache* cache) const {
  const at::Tensor heads = key_attention_ ? (*key_attention_)(modulate(projected, state), documents, cache)
                                          : combine(attention, state);
  return norm_weight_.defined() ? kernels::head_rms_norm(heads.contiguous(), norm_weight_, norm_eps_) : heads;
}

at::Tensor MiddleHeads::combine(const at::Tensor& attention, const at::Tensor& state) const {
  if (parts_.size() == 1) return parts_[0].pairs(attention, state);
  std::vector<at::Tensor> by_kind;
  std::vector<std::int64_t> place(pairs_.size());  // of middle head m among all kinds, one after the other
  std::int64_t next = 0;
  for (const Part& part : parts_) {
    by_kind.push_back(part.pairs(attention, state));
    for (const std::int64_t m : part.heads) place[static_cast<std::size_t>(m)] = next++;
  }
  return choose_heads(at::cat(by_kind, 2), place);
}

QueryKeyValue MiddleHeads::modulate(const QueryKeyValue& projected, const at::Tensor& state) const {
  const std::int64_t group = projected.q.size(2) / projected.k.size(2);
  std::vector<std::int64_t> queries, keys, states;
  for (const HeadPair& pair : pairs_) {
    queries.push_back(pair.attention);
    keys.push_back(pair.attention / group);
    states.push_back(pair.state);
  }
  const at::Tensor modulation = per_head_linear(choose_heads(state, states), lift_).mul(beta_);
  return {choose_heads(projected.q, queries), choose_heads(projected.k, keys).add(modulation),
          choose_heads(projected.v, keys)};
}

}  // namespace wuneng::model
