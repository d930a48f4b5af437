// What one rank writes into a checkpoint, or wants from it: pieces of tensors, each with its place in the
// whole. Places are global indices, so that any mesh of ranks can read what any other wrote.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/safetensors.h"

namespace wuneng::trainer {

// Indices begin[d] to begin[d] + shape[d] of every dimension d.
struct Box {
  std::vector<std::int64_t> begin, shape;
  std::int64_t numel() const;
  bool operator==(const Box&) const = default;
};

// The boxes that `size` neighbouring elements of a dense tensor of this shape make, from element `begin` on:
// at most two for each dimension, less one.
std::vector<Box> boxes_of_range(const std::vector<std::int64_t>& shape, std::int64_t begin,
                                std::int64_t size);

// What two boxes of one tensor share; none of its elements where they do not meet.
Box intersection(const Box& a, const Box& b);

// The part of `data`, which holds `box`, that lies in `inner`; a view.
at::Tensor view_of(const at::Tensor& data, const Box& box, const Box& inner);

// The key of a box in a safetensors file: the tensor's name, and "[0:4,3:6]" where it is not all of it.
std::string entry_name(const std::string& name, const std::vector<std::int64_t>& shape, const Box& box);

struct Piece {
  std::vector<std::int64_t> begin;  // global index of data's first element
  at::Tensor data;                  // any stride
  Box box() const { return {begin, data.sizes().vec()}; }
};

struct TensorPieces {
  std::string section, name;        // "model" or "optimizer"; unique together
  std::vector<std::int64_t> shape;  // of the whole tensor
  at::ScalarType dtype;
  std::vector<Piece> pieces;  // may be none
};

// Every tensor of the model and the optimizer in a fixed order, the same on all ranks.
using Shard = std::vector<TensorPieces>;

// All of every tensor.
Shard whole_tensors(const std::string& section, const NamedTensors& tensors);

}  // namespace wuneng::trainer
