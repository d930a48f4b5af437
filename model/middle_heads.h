// Middle heads (WuNeng, arXiv 2504.19191): each takes one attention head and one state head, paired by their
// numbers (head_pairs.h), and combines them.
//
//   concat, additive, gated  as in head_pairs.h
//   key                      softmax attention with the paired attention head's query and value, and keys
//   that
//                            the state modulates before norm and positions: K + beta * (R E), beta from 0
//   mixed                    concat, additive, gated in turn: head m's kind is m mod 3
//
// followed by an RMS norm of each head. Without that norm, concat and additive middle heads are linear in
// [A; R] and so can only compute what the concatenating fusion computes without them. All parameters are
// split by middle head over the tensor group.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "model/config.h"
#include "model/head_pairs.h"
#include "model/softmax_attention.h"

namespace wuneng::model {

class MiddleHeads {
 public:
  MiddleHeads(const ModelConfig& config, std::int64_t layer, const parallel::LayerBuilder& layers);

  // attention [B, T, H_a, d] and state [B, T, H_s, N]: the heads after their norms; `projected`: the
  // attention heads' projections, of which `key` makes its own. -> [B, T, H_m, d].
  at::Tensor operator()(const at::Tensor& attention, const at::Tensor& state, const QueryKeyValue& projected,
                        const Documents& documents, KeyValueCache* cache) const;

 private:
  // Heads of one kind, and where they stand among this rank's middle heads.
  struct Part {
    std::vector<std::int64_t> heads;
    HeadPairs pairs;
  };
  void add_part(PairMode mode, const char* name, std::int64_t first, std::int64_t step,
                const ModelConfig& config, const parallel::LayerBuilder& layers);
  at::Tensor combine(const at::Tensor& attention, const at::Tensor& state) const;
  QueryKeyValue modulate(const QueryKeyValue& projected, const at::Tensor& state) const;

  std::int64_t count_;           // of the whole model
  std::vector<HeadPair> pairs_;  // this rank's
  std::vector<Part> parts_;      // all kinds but `key`
  std::optional<SoftmaxAttention> key_attention_;
  at::Tensor lift_, beta_;  // of `key`: [H_m, N, d], [H_m, d]
  at::Tensor norm_weight_;  // [H_m, d]
  double norm_eps_;
};

}  // namespace wuneng::model
