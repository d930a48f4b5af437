// The parameters of a model as this rank holds them, each with its place in the whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace wuneng::parallel {

// How the optimizer treats a parameter.
struct OptimizerGroup {
  bool weight_decay = false;
  double lr_scale = 1.0;

  bool operator==(const OptimizerGroup&) const = default;
};

struct Parameter {
  std::string name;                        // "layers.0.attention.query.weight"
  at::Tensor value = {};                   // this rank's part, contiguous; a leaf that requires a gradient
  std::vector<std::int64_t> global_shape;  // of the whole tensor
  int shard_dim = -1;            // the dimension split over the tensor group; -1: every rank holds all of it
  std::int64_t shard_begin = 0;  // first global index of `value` along shard_dim
  std::int64_t padding =
      0;  // rows at the end of `value` that the whole does not have: zero, with no gradient
  // So many neighbouring ranks hold the same part, each of which sees a share of its gradient.
  int copies = 1;
  bool partial_gradient = false;  // held by all ranks, each of which sees a share of the gradient
  OptimizerGroup group = {};
};

// In order of creation, which is the order of use in the forward pass. Names are unique.
using Parameters = std::vector<Parameter>;

}  // namespace wuneng::parallel
