#include "parallel/layers.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

#include "common/check.h"
#include "common/hash.h"
#include "kernels/linear.h"

namespace wuneng::parallel {
namespace {

constexpr OptimizerGroup matrix_group{.weight_decay = true, .lr_scale = 1.0};

at::Tensor zeros(at::IntArrayRef shape, std::uint64_t) { return at::zeros(shape, at::kFloat); }

}  // namespace

at::Tensor ColumnLinear::operator()(const at::Tensor& x) const { return column_linears({*this}, x)[0]; }

std::vector<at::Tensor> column_linears(const std::vector<ColumnLinear>& layers, const at::Tensor& x) {
  std::vector<at::Tensor> weights;
  for (const ColumnLinear& layer : layers) weights.push_back(layer.weight);
  std::vector<at::Tensor> out = kernels::linear_each(x, weights);
  for (std::size_t i = 0; i < layers.size(); ++i)
    if (layers[i].bias.defined()) out[i] = out[i].add(layers[i].bias);
  return out;
}

at::Tensor RowLinear::operator()(const std::vector<at::Tensor>& inputs, const Stream& stream) const {
  const at::Tensor sum = stream.leave(kernels::linear_sum(inputs, weights));
  return bias.defined() ? sum.add(bias) : sum;
}

at::Tensor embed(const VocabularyRows& rows, const at::Tensor& tokens, const Stream& stream) {
  if (rows.tensor_group->size() == 1) return at::embedding(rows.weight, tokens);
  const at::Tensor row = tokens.sub(rows.begin), here = row.ge(0).logical_and(row.lt(rows.weight.size(0)));
  const at::Tensor found = at::embedding(rows.weight, row.mul(here));  // ids of other ranks find row 0
  return stream.leave(found.mul(here.unsqueeze(-1).to(found.scalar_type())));
}

at::Tensor all_logits(const VocabularyRows& rows, const at::Tensor& hidden) {
  const at::Tensor mine = kernels::linear_each(hidden, rows.weight)[0];
  const std::int64_t ranks = rows.tensor_group->size();
  if (ranks == 1) return mine;
  WN_CHECK(!mine.requires_grad(), "all_logits: not differentiable over {} ranks", ranks);
  const at::Tensor all = gathered(mine, *rows.tensor_group);  // [ranks, ..., rows]
  return all.movedim(0, -2).flatten(-2).narrow(-1, 0, rows.vocab_size).contiguous();
}

kernels::LinearCrossEntropy cross_entropy(const VocabularyRows& rows, const at::Tensor& hidden,
                                          const at::Tensor& targets, kernels::LogitPenalties penalties,
                                          const Stream& stream) {
  Communicator& group = *rows.tensor_group;
  const at::Tensor all_hidden = stream.enter(hidden).flatten(0, 1);
  if (group.size() == 1)
    return kernels::linear_cross_entropy(all_hidden, rows.weight, targets, rows.count, penalties);
  const kernels::VocabularyShard shard{
      .begin = rows.begin,
      .shards = group.size(),
      .mine = group.rank(),
      .whole_size = rows.vocab_size,
      .gather = [&group](const at::Tensor& mine) { return gathered(mine, group); }};
  return kernels::linear_cross_entropy(all_hidden, rows.weight, targets, rows.count, penalties, shard);
}

LayerBuilder::LayerBuilder(Parameters& parameters, Communicator& tensor_group, std::uint64_t seed,
                           Building options)
    : parameters_(&parameters), tensor_group_(&tensor_group), seed_(seed), options_(options) {}

LayerBuilder LayerBuilder::in(const std::string& name) const {
  LayerBuilder inner = *this;
  inner.prefix_ += name + ".";
  return inner;
}

std::int64_t LayerBuilder::local(std::int64_t heads) const {
  const std::int64_t ranks = tensor_group_->size();
  WN_REQUIRE(heads % ranks == 0 || (heads > 0 && ranks % heads == 0),
             "{}{} heads cannot be split over parallel.tensor = {} ranks", prefix_, heads, ranks);
  return heads == 0 ? 0 : std::max<std::int64_t>(1, heads / ranks);
}

at::Tensor LayerBuilder::replicated(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                                    Used used, OptimizerGroup group) const {
  const bool partial_gradient = used == Used::in_block || options_.sequence;
  return add(name, shape, init, Split{}, partial_gradient, group).value;
}

at::Tensor LayerBuilder::split(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                               Split split, OptimizerGroup group) const {
  return add(name, shape, init, split, false, group).value;
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
  for (const RowInput& input : inputs) {
    const std::string matrix = input.name.empty() ? name : name + "." + input.name;
    layer.weights.push_back(split(matrix + ".weight", {out, input.heads * input.head_size}, input.init,
                                  Split{1, input.heads}, matrix_group));
  }
  if (bias) layer.bias = replicated(name + ".bias", {out}, zeros, Used::in_stream);
  return layer;
}

VocabularyRows LayerBuilder::vocabulary_rows(const std::string& name, std::int64_t vocab_size,
                                             std::int64_t width, const Initializer& init) const {
  const Split by_id{.dim = 0, .heads = vocab_size, .pad = true};
  const Parameter& rows = add(name + ".weight", {vocab_size, width}, init, by_id, false, matrix_group);
  return {rows.value, rows.shard_begin, rows.value.size(0) - rows.padding, vocab_size, tensor_group_};
}

const Parameter& LayerBuilder::add(const std::string& name, at::IntArrayRef shape, const Initializer& init,
                                   Split split, bool partial_gradient, OptimizerGroup group) const {
  const std::string full = prefix_ + name;
  WN_CHECK(std::none_of(parameters_->begin(), parameters_->end(),
                        [&](const Parameter& p) { return p.name == full; }),
           "parameter {} is made twice", full);
  Parameter p{.name = full,
              .value = options_.shapes_only ? at::empty(shape, at::device(at::kMeta).dtype(at::kFloat))
                                            : init(shape, hash_text(full, seed_)),
              .global_shape = shape.vec(),
              .shard_dim = split.dim,
              .partial_gradient = partial_gradient,
              .group = group};
  if (split.dim >= 0) cut(p, split);
  if (!options_.shapes_only) p.value = p.value.to(options_.device);
  p.value = p.value.clone(at::MemoryFormat::Contiguous).requires_grad_();
  parameters_->push_back(std::move(p));
  return parameters_->back();
}

// From the whole tensor to this rank's part.
void LayerBuilder::cut(Parameter& p, Split split) const {
  const std::int64_t whole = p.global_shape[static_cast<std::size_t>(split.dim)],
                     ranks = tensor_group_->size(), rank = tensor_group_->rank();
  const std::int64_t extent =
      split.pad ? (whole + ranks - 1) / ranks : whole / split.heads * local(split.heads);
  WN_REQUIRE(!split.pad || extent * (ranks - 1) < whole,
             "{}: {} rows leave the last of parallel.tensor = {} ranks without any", p.name, whole, ranks);
  p.copies = split.pad ? 1 : static_cast<int>(std::max<std::int64_t>(1, ranks / split.heads));
  p.shard_begin = rank / p.copies * extent;
  const std::int64_t there = std::min(extent, whole - p.shard_begin);
  p.padding = extent - there;
  p.value = p.value.narrow(split.dim, p.shard_begin, there);
  if (p.padding == 0) return;
  std::vector<std::int64_t> beyond = p.value.sizes().vec();
  beyond[static_cast<std::size_t>(split.dim)] = p.padding;
  p.value = at::cat({p.value, at::zeros(beyond, p.value.options())}, split.dim);
}

}  // namespace wuneng::parallel
