// The layers that models are built from. A model asks for heads, matrices and vectors by their global sizes;
// each rank of the tensor group gets its contiguous range of heads, and the model never learns which.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/linear_cross_entropy.h"
#include "parallel/communicator.h"
#include "parallel/parameters.h"
#include "parallel/stream.h"

namespace wuneng::parallel {

// Makes the whole (global) tensor of a parameter, the same on every rank.
using Initializer = std::function<at::Tensor(at::IntArrayRef shape, std::uint64_t seed)>;

// How a parameter is cut: `dim` is split into `heads` equal parts, of which each rank takes a contiguous
// range; where there are fewer heads than ranks, neighbouring ranks take the same one.
struct Split {
  int dim = -1;  // -1: not cut, every rank holds it
  std::int64_t heads = 1;
  bool pad = false;  // parts that would be unequal are filled up at the end with zeros
};

// Where a parameter that every rank holds is used. Inside a block a rank sees the share of its gradient that
// comes from its own heads; in the residual stream all of it, or the share of its tokens where the stream is
// in parts. The trainer sums shares over the tensor group.
enum class Used { in_stream, in_block };

struct Building {
  bool sequence = false;         // training has its residual stream in parts (stream.h)
  bool shapes_only = false;      // parameters take no memory: tensors of the meta device, to be counted
  at::Device device = at::kCPU;  // of the parameters
};

// y = x W^T + bias with the rows of W [heads * head_size, in] split by head: y holds this rank's heads.
struct ColumnLinear {
  at::Tensor weight;
  at::Tensor bias = {};                              // [heads * head_size], split likewise; undefined: none
  at::Tensor operator()(const at::Tensor& x) const;  // [..., in] -> [..., local rows]
};

// Several layers of one x: as each of them alone, but the gradients that they send back to x are summed by
// their products.
std::vector<at::Tensor> column_linears(const std::vector<ColumnLinear>& layers, const at::Tensor& x);

// y = sum over inputs i of x_i W_i^T + bias with the columns of each W_i [out, heads_i * head_size_i] split
// by head; y leaves the block by one collective for all, after which every rank adds the same bias.
struct RowLinear {
  std::vector<at::Tensor> weights;
  at::Tensor bias = {};  // [out]; undefined: none
  // [B, all T, local columns_i] each -> [B, T, out]
  at::Tensor operator()(const std::vector<at::Tensor>& inputs, const Stream& stream) const;
};

// The two ends of a model hold one row per id of the vocabulary, split over the tensor group by id; where V
// is no multiple of its ranks, the last ones hold rows of zeros beyond it.
struct VocabularyRows {
  at::Tensor weight;            // [rows, width]
  std::int64_t begin = 0;       // id of the first row
  std::int64_t count = 0;       // of rows that stand for an id
  std::int64_t vocab_size = 0;  // V of the whole model
  Communicator* tensor_group = nullptr;
};

// [B, all T] int64 -> the stream [B, T, width]; one collective.
at::Tensor embed(const VocabularyRows& rows, const at::Tensor& tokens, const Stream& stream);

// hidden [..., width] -> logits [..., V] of all ids, on every rank; one all-gather. Not differentiable over
// several ranks: training takes the loss below.
at::Tensor all_logits(const VocabularyRows& rows, const at::Tensor& hidden);

// kernels::linear_cross_entropy over the whole vocabulary; hidden [B, T, width] is the stream, targets are
// [B * all T]. Ranks exchange four numbers per token forward, and sum the gradient of hidden backward.
kernels::LinearCrossEntropy cross_entropy(const VocabularyRows& rows, const at::Tensor& hidden,
                                          const at::Tensor& targets, kernels::LogitPenalties penalties,
                                          const Stream& stream);

class LayerBuilder {
 public:
  // Parameters are added to `parameters`. Each is initialised from (seed, its name) alone.
  LayerBuilder(Parameters& parameters, Communicator& tensor_group, std::uint64_t seed, Building options = {});

  // The same builder with "name." in front of every name.
  LayerBuilder in(const std::string& name) const;

  // How many of `heads` this rank holds. Throws UsageError when neither the tensor group divides them nor
  // they its ranks.
  std::int64_t local(std::int64_t heads) const;
  Communicator& tensor_group() const { return *tensor_group_; }

  at::Tensor replicated(const std::string& name, at::IntArrayRef shape, const Initializer& init, Used used,
                        OptimizerGroup group = {}) const;
  at::Tensor split(const std::string& name, at::IntArrayRef shape, const Initializer& init, Split split,
                   OptimizerGroup group = {}) const;

  // Biases start at zero.
  ColumnLinear column_linear(const std::string& name, std::int64_t in, std::int64_t heads,
                             std::int64_t head_size, const Initializer& init, bool bias = false) const;

  // One of the inputs of a row-parallel layer.
  struct RowInput {
    std::string name;  // "attention": the weight is NAME.attention.weight; empty: NAME.weight
    std::int64_t heads, head_size;
    Initializer init;
  };
  RowLinear row_linear(const std::string& name, const std::vector<RowInput>& inputs, std::int64_t out,
                       bool bias = false) const;

  VocabularyRows vocabulary_rows(const std::string& name, std::int64_t vocab_size, std::int64_t width,
                                 const Initializer& init) const;

 private:
  const Parameter& add(const std::string& name, at::IntArrayRef shape, const Initializer& init, Split split,
                       bool partial_gradient, OptimizerGroup group) const;
  void cut(Parameter& whole, Split split) const;

  Parameters* parameters_;
  Communicator* tensor_group_;
  std::uint64_t seed_;
  Building options_;
  std::string prefix_;
};

}  // namespace wuneng::parallel
