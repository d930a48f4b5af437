#include "trainer/checkpoint/sharding.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

namespace wuneng::trainer {
namespace {

using parallel::FlatLayout;
using parallel::Parameter;
using parallel::Parameters;

std::string moment_name(const Parameter& parameter, const std::string& moment) {
  return parameter.name + "." + moment;
}

TensorPieces parameter_tensor(const Parameter& parameter) {
  return {"model", parameter.name, parameter.global_shape, parameter.value.scalar_type(), {}};
}

TensorPieces moment_tensor(const Parameter& parameter, const std::string& moment) {
  return {"optimizer", moment_name(parameter, moment), parameter.global_shape, at::kFloat, {}};
}

// A box of this rank's part, without its padding, in global indices.
Box to_global(Box box, const Parameter& parameter) {
  if (parameter.shard_dim < 0) return box;
  const auto dim = static_cast<std::size_t>(parameter.shard_dim);
  const std::int64_t real = parameter.value.size(parameter.shard_dim) - parameter.padding;
  box.shape[dim] = std::clamp<std::int64_t>(real - box.begin[dim], 0, box.shape[dim]);
  box.begin[dim] += parameter.shard_begin;
  return box;
}

// Adds the elements [begin, begin + flat.numel()) of this rank's part, which lie in `flat`.
void add_range(const Parameter& parameter, std::int64_t begin, const at::Tensor& flat, TensorPieces& tensor) {
  std::int64_t used = 0;
  for (const Box& local : boxes_of_range(parameter.value.sizes().vec(), begin, flat.numel())) {
    const at::Tensor data = flat.narrow(0, used, local.numel()).view(local.shape);
    used += local.numel();
    const Box global = to_global(local, parameter);
    if (global.numel() > 0)
      tensor.pieces.push_back({global.begin, view_of(data, {global.begin, {}}, global)});
  }
}

// Adds what lies in `range` of flat memory; `flat` holds the range.
void add_part(const Parameters& parameters, std::size_t i, const FlatLayout& layout, FlatLayout::Range range,
              const at::Tensor& flat, TensorPieces& tensor) {
  const FlatLayout::Range part = layout.part(i, range);
  if (part.size == 0) return;
  add_range(parameters[i], part.begin - layout.place(i).begin,
            flat.narrow(0, part.begin - range.begin, part.size), tensor);
}

// The moments of bucket `b` that this rank updates: where they begin in its own memory of moments.
std::vector<std::int64_t> owned_begins(const FlatLayout& layout) {
  std::vector<std::int64_t> begins{0};
  for (const FlatLayout::Range& range : layout.owned()) begins.push_back(begins.back() + range.size);
  return begins;
}

// Whether this tensor rank writes the parameter: one of those that hold the same does, in turn.
bool writes(const Parameter& parameter, std::size_t i, TensorRank tensor) {
  const int alike = parameter.shard_dim < 0 ? tensor.size : parameter.copies;
  return tensor.rank % alike == static_cast<int>(i % static_cast<std::size_t>(alike));
}

at::Tensor flat_value(const Parameter& parameter) { return parameter.value.detach().view(-1); }

}  // namespace

Shard written_shard(const Parameters& parameters, const FlatLayout& layout, const AdamW& optimizer,
                    TensorRank tensor) {
  const std::vector<std::int64_t> begins = owned_begins(layout);
  Shard model, moments;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::size_t b = layout.bucket_of(i);
    const FlatLayout::Range piece = layout.piece(b), owned = layout.owned()[b];
    model.push_back(parameter_tensor(parameters[i]));
    if (writes(parameters[i], i, tensor))
      if (const FlatLayout::Range part = layout.part(i, piece); part.size > 0) {
        const std::int64_t begin = part.begin - layout.place(i).begin;
        add_range(parameters[i], begin, flat_value(parameters[i]).narrow(0, begin, part.size), model.back());
      }
    for (const AdamW::Moment& moment : optimizer.moments()) {
      moments.push_back(moment_tensor(parameters[i], moment.name));
      if (writes(parameters[i], i, tensor))
        add_part(parameters, i, layout, piece,
                 moment.owned.narrow(0, begins[b] + piece.begin - owned.begin, piece.size), moments.back());
    }
  }
  model.insert(model.end(), moments.begin(), moments.end());
  return model;
}

Shard wanted_parameters(const Parameters& parameters) {
  Shard shard;
  for (const Parameter& parameter : parameters) {
    const at::Tensor value = parameter.value.detach();
    const Box global = to_global({std::vector<std::int64_t>(value.dim(), 0), value.sizes().vec()}, parameter);
    shard.push_back(parameter_tensor(parameter));
    if (global.numel() > 0)
      shard.back().pieces.push_back({global.begin, view_of(value, {global.begin, {}}, global)});
  }
  return shard;
}

Shard wanted_shard(const Parameters& parameters, const FlatLayout& layout, const AdamW& optimizer) {
  Shard shard = wanted_parameters(parameters);
  const std::vector<std::int64_t> begins = owned_begins(layout);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const std::size_t b = layout.bucket_of(i);
    const FlatLayout::Range owned = layout.owned()[b];
    for (const AdamW::Moment& moment : optimizer.moments()) {
      shard.push_back(moment_tensor(parameters[i], moment.name));
      add_part(parameters, i, layout, owned, moment.owned.narrow(0, begins[b], owned.size), shard.back());
    }
  }
  return shard;
}

Shard fresh_shard(const Parameters& parameters) {
  NamedTensors model, moments;
  for (const Parameter& parameter : parameters) {
    model.emplace_back(parameter.name, parameter.value.detach());
    for (const char* moment : moment_names)
      moments.emplace_back(moment_name(parameter, moment), at::zeros(parameter.global_shape, at::kFloat));
  }
  Shard shard = whole_tensors("model", model), rest = whole_tensors("optimizer", moments);
  shard.insert(shard.end(), rest.begin(), rest.end());
  return shard;
}

}  // namespace wuneng::trainer
