#include "trainer/sharding.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

namespace wuneng::trainer {
namespace {

using parallel::Communicator;
using parallel::FlatLayout;
using parallel::Parameter;
using parallel::Parameters;

// Copies this rank's part of the whole tensor; rows that the whole does not have stay as they are.
void copy_part(const at::Tensor& whole, const Parameter& parameter, const at::Tensor& part) {
  const int dim = parameter.shard_dim;
  if (dim < 0) {
    part.copy_(whole);
    return;
  }
  const std::int64_t extent = part.size(dim) - parameter.padding;
  part.narrow(dim, 0, extent).copy_(whole.narrow(dim, parameter.shard_begin, extent));
}

at::Tensor gather_whole(const at::Tensor& part, const Parameter& parameter, Communicator& tensor_group) {
  const int dim = parameter.shard_dim;
  if (tensor_group.size() == 1 || dim < 0) return part;
  std::vector<std::int64_t> shape = part.sizes().vec();
  shape.insert(shape.begin(), tensor_group.size());
  const at::Tensor all = at::empty(shape, part.options());
  tensor_group.all_gather(part.contiguous(), all);
  std::vector<at::Tensor> parts;  // of several copies the first
  for (int r = 0; r < tensor_group.size(); r += parameter.copies) parts.push_back(all[r]);
  return at::cat(parts, dim)
      .narrow(dim, 0, parameter.global_shape[static_cast<std::size_t>(dim)])
      .contiguous();
}

// A moment of every element in flat memory.
at::Tensor gather_flat(const at::Tensor& owned, const FlatLayout& layout, Communicator& data_group) {
  if (!layout.shared()) return owned;  // the ranges are all of it, one after the other
  at::Tensor flat = at::empty({layout.size()}, owned.options());
  std::int64_t begin = 0;
  for (std::size_t b = 0; b < layout.buckets(); ++b) {
    const FlatLayout::Range piece = layout.piece(b);
    data_group.all_gather(owned.narrow(0, begin, piece.size), layout.bucket(b).of(flat));
    begin += piece.size;
  }
  return flat;
}

std::string moment_name(const Parameter& parameter, const AdamW::Moment& moment) {
  return parameter.name + "." + moment.name;
}

}  // namespace

std::vector<Checkpoint::Wanted> wanted_parts(const Parameters& parameters) {
  std::vector<Checkpoint::Wanted> wanted;
  for (const Parameter& parameter : parameters)
    wanted.push_back(
        {parameter.name, parameter.global_shape, parameter.value.scalar_type(),
         [&parameter](const at::Tensor& whole) { copy_part(whole, parameter, parameter.value.detach()); }});
  return wanted;
}

std::vector<Checkpoint::Wanted> wanted_moments(const Parameters& parameters, const FlatLayout& layout,
                                               const AdamW& optimizer) {
  std::vector<Checkpoint::Wanted> wanted;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    for (const AdamW::Moment& moment : optimizer.moments())
      wanted.push_back({moment_name(parameters[i], moment), parameters[i].global_shape, at::kFloat,
                        [&, i](const at::Tensor& whole) {
                          const at::Tensor mine = at::zeros(parameters[i].value.sizes(), at::kFloat);
                          copy_part(whole, parameters[i], mine);
                          std::int64_t owned = 0;
                          for (const FlatLayout::Range& range : layout.owned()) {
                            const FlatLayout::Range part = layout.part(i, range);
                            if (part.size > 0)
                              moment.owned.narrow(0, owned + part.begin - range.begin, part.size)
                                  .copy_(
                                      mine.view(-1).narrow(0, part.begin - layout.place(i).begin, part.size));
                            owned += range.size;
                          }
                        }});
  return wanted;
}

NamedTensors whole_parameters(const Parameters& parameters, Communicator& data_group,
                              Communicator& tensor_group) {
  NamedTensors tensors;
  if (data_group.rank() != 0) return tensors;
  for (const Parameter& parameter : parameters)
    tensors.emplace_back(parameter.name, gather_whole(parameter.value.detach(), parameter, tensor_group));
  return tensors;
}

NamedTensors whole_moments(const Parameters& parameters, const FlatLayout& layout, const AdamW& optimizer,
                           Communicator& data_group, Communicator& tensor_group) {
  std::vector<std::vector<at::Tensor>> views;
  for (const AdamW::Moment& moment : optimizer.moments())
    views.push_back(layout.views(gather_flat(moment.owned, layout, data_group)));
  NamedTensors tensors;
  if (data_group.rank() != 0) return tensors;
  for (std::size_t i = 0; i < parameters.size(); ++i)
    for (std::size_t m = 0; m < views.size(); ++m)
      tensors.emplace_back(moment_name(parameters[i], optimizer.moments()[m]),
                           gather_whole(views[m][i], parameters[i], tensor_group));
  return tensors;
}

NamedTensors zero_moments(const Parameters& parameters) {
  NamedTensors tensors;
  for (const Parameter& parameter : parameters)
    for (const char* name : moment_names)
      tensors.emplace_back(parameter.name + "." + name, at::zeros(parameter.global_shape, at::kFloat));
  return tensors;
}

}  // namespace wuneng::trainer
