#include "parallel/layers.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "common/check.h"
#include "common/hash.h"
#include "kernels/linear.h"
#include "kernels/op.h"
#include "parallel/collectives.h"

namespace wuneng::parallel {
namespace {

constexpr OptimizerGroup matrix_group{.weight_decay = true, .lr_scale = 1.0};

at::Tensor zeros(at::IntArrayRef shape, std::uint64_t) { return at::zeros(shape, at::kFloat); }

}  // namespace

at::Tensor ColumnLinear::operator()(const at::Tensor& x) const {
  return bias.defined() ? at::linear(x, weight, bias) : kernels::linear_each(x, weight)[0];
}

std::vector<at::Tensor> column_linears(const std::vector<ColumnLinear>& layers, const at::Tensor& x) {
  std::vector<at::Tensor> weights, out;
  for (const ColumnLinear& layer : layers) {
    if (layer.bias.defined()) out.push_back(layer(x));
    weights.push_back(layer.weight);
  }
  return out.empty() ? kernels::linear_each(x, weights) : out;
}

at::Tensor RowLinear::operator()(const std::vector<at::Tensor>& inputs) const {
  const at::Tensor whole = leave_shards(kernels::linear_sum(inputs, weights), *tensor_group);
  return bias.defined() ? whole.add(bias) : whole;
}

at::Tensor Embedding::operator()(const at::Tensor& tokens) const { return at::embedding(weight, tokens); }

LayerBuilder::LayerBuilder(Parameters& parameters, Communicator& tensor_group, std::uint64_t seed,
                           bool shapes_only)
    : parameters_(&parameters), tensor_group_(&tensor_group), seed_(seed), shapes_only_(shapes_only) {}

LayerBuilder LayerBuilder::in(const std::string& name) const {
  LayerBuilder inner = *this;
  inner.prefix_ += name + ".";
  return inner;
}

std::int64_t LayerBuilder::local(std::int64_t heads) const {
  WN_REQUIRE(heads % tensor_group_->size() == 0, "{}{} heads cannot be split over parallel.tensor = {} ranks",
             prefix_, heads, tensor_group_->size());
  return heads / tensor_group_->size();
}

at::Tensor LayerBuilder::replicated(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                                    Replicated options, OptimizerGroup group) const {
  return add(name, shape, init, Split{}, options.partial_gradient, group);
}

at::Tensor LayerBuilder::split(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                               Split split, OptimizerGroup group) const {
  return add(name, shape, init, split, false, group);
}

ColumnLinear LayerBuilder::column_linear(const std::string& name, std::int64_t in, std::int64_t heads,
                                         std::int64_t head_size, const Initializer& init, bool bias) const {
  ColumnLinear layer{split(name + ".weight", {heads * head_size, in}, init, Split{0, heads}, matrix_group)};
  if (bias) layer.bias = split(name + ".bias", {heads * head_size}, zeros, Split{0, heads});
  return layer;
}

RowLinear LayerBuilder::row_linear(const std::string& name, const std::vector<RowInput>& inputs,
                                   std::int64_t out, bool bias) const {
  RowLinear layer;
  layer.tensor_group = tensor_group_;
  for (const RowInput& input : inputs) {
    const std::string matrix = input.name.empty() ? name : name + "." + input.name;
    layer.weights.push_back(split(matrix + ".weight", {out, input.heads * input.head_size}, input.init,
                                  Split{1, input.heads}, matrix_group));
  }
  if (bias) layer.bias = replicated(name + ".bias", {out}, zeros);
  return layer;
}

Embedding LayerBuilder::embedding(const std::string& name, std::int64_t vocab_size, std::int64_t width,
                                  const Initializer& init) const {
  return {split(name + ".weight", {vocab_size, width}, init, Split{0, vocab_size}, matrix_group)};
}

ColumnLinear LayerBuilder::vocab_linear(const std::string& name, std::int64_t vocab_size, std::int64_t width,
                                        const Initializer& init) const {
  return column_linear(name, width, vocab_size, 1, init);
}

at::Tensor LayerBuilder::add(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                             Split split, bool partial_gradient, OptimizerGroup group) const {
  const std::string full = prefix_ + name;
  WN_CHECK(std::none_of(parameters_->begin(), parameters_->end(),
                        [&](const Parameter& p) { return p.name == full; }),
           "parameter {} is made twice", full);
  at::Tensor value = shapes_only_ ? at::empty(shape, at::device(at::kMeta).dtype(at::kFloat))
                                  : init(shape, hash_text(full, seed_));
  std::int64_t begin = 0;
  if (split.dim >= 0) {
    const std::int64_t extent = shape[split.dim] / split.heads * local(split.heads);
    begin = tensor_group_->rank() * extent;
    value = value.narrow(split.dim, begin, extent);
  }
  value = value.clone(at::MemoryFormat::Contiguous).requires_grad_();
  parameters_->push_back({full, value, shape.vec(), split.dim, begin, partial_gradient, group});
  return value;
}

}  // namespace wuneng::parallel
