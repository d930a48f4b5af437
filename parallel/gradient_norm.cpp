#include "parallel/gradient_norm.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <map>
#include <vector>

#include "common/check.h"
#include "kernels/sum_of_squares.h"

namespace wuneng::parallel {
namespace {

constexpr std::int64_t block = FlatLayout::block;

// One sum per block of this rank's flat memory; zero where another rank owns the block.
at::Tensor sums_of_blocks(const at::Tensor& flat, const FlatLayout& layout) {
  const at::Tensor sums = at::zeros({layout.size() / block}, at::kDouble);
  for (const FlatLayout::Range& range : layout.owned())
    sums.narrow(0, range.begin / block, range.size / block)
        .copy_(kernels::sums_of_squares(range.of(flat), block));
  return sums;
}

// Adds up in the order of ranks, so that all that share get the same bits.
void sum_over_neighbours(const std::vector<at::Tensor>& parts, int sharers, Communicator& tensor_group) {
  const at::Tensor all = gathered(at::cat(parts), tensor_group);
  const int first = tensor_group.rank() / sharers * sharers;
  const at::Tensor sum = all[first];
  for (int r = 1; r < sharers; ++r) sum.add_(all[first + r]);
  std::int64_t begin = 0;
  for (const at::Tensor& part : parts) {
    part.copy_(sum.narrow(0, begin, part.numel()));
    begin += part.numel();
  }
}

}  // namespace

void sum_partial_gradients(const at::Tensor& flat, const Parameters& parameters, const FlatLayout& layout,
                           Communicator& tensor_group) {
  if (tensor_group.size() == 1) return;
  std::map<int, std::vector<at::Tensor>> parts;  // by how many neighbouring ranks add up
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const int sharers = parameters[i].partial_gradient ? tensor_group.size() : parameters[i].copies;
    if (sharers == 1) continue;
    for (const FlatLayout::Range& range : layout.owned())
      if (const FlatLayout::Range part = layout.part(i, range); part.size > 0)
        parts[sharers].push_back(part.of(flat));
  }
  for (const auto& [sharers, tensors] : parts) sum_over_neighbours(tensors, sharers, tensor_group);
}

double sum_of_squares(const at::Tensor& flat, const Parameters& parameters, const FlatLayout& layout,
                      Communicator& data_group, Communicator& tensor_group) {
  const at::Tensor sums = sums_of_blocks(flat, layout);
  // A block is owned by one rank: added to the others' zeros its sum keeps its bits.
  if (layout.shared()) data_group.all_reduce_sum(sums);
  const auto* of_block = sums.const_data_ptr<double>();
  double replicated = 0.0, split = 0.0;
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const FlatLayout::Range place = layout.place(i);
    if (tensor_group.rank() % parameters[i].copies != 0) continue;  // counted by the first that holds it
    double& sum = parameters[i].shard_dim < 0 ? replicated : split;
    for (std::int64_t b = place.begin / block; b * block < place.end(); ++b) sum += of_block[b];
  }
  const at::Tensor all = gathered(at::full({}, split, at::kDouble), tensor_group);
  for (std::int64_t r = 0; r < all.numel(); ++r) replicated += all.const_data_ptr<double>()[r];
  return replicated;
}

}  // namespace wuneng::parallel
