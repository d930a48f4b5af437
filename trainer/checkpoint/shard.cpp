#include "trainer/checkpoint/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <span>

namespace wuneng::trainer {
namespace {

std::int64_t product(std::span<const std::int64_t> sizes) {
  return std::accumulate(sizes.begin(), sizes.end(), std::int64_t{1}, std::multiplies<>());
}

// Elements [begin, end) of a dense tensor of shape `inner`, inside of the outer index `outer`.
void add_boxes(std::vector<std::int64_t> outer, std::span<const std::int64_t> inner, std::int64_t begin,
               std::int64_t end, std::vector<Box>& boxes) {
  if (begin >= end) return;
  const std::int64_t row = inner.empty() ? 1 : product(inner.subspan(1));
  if (begin % row == 0 && end % row == 0) {  // whole rows
    Box box{outer, std::vector<std::int64_t>(outer.size(), 1)};
    box.begin.resize(outer.size() + inner.size(), 0);
    box.shape.insert(box.shape.end(), inner.begin(), inner.end());
    if (!inner.empty()) {
      box.begin[outer.size()] = begin / row;
      box.shape[outer.size()] = (end - begin) / row;
    }
    boxes.push_back(std::move(box));
    return;
  }
  // The rest of the row in which it begins, whole rows, the start of the row in which it ends.
  const auto inside_row = [&](std::int64_t index, std::int64_t from, std::int64_t to) {
    std::vector<std::int64_t> at = outer;
    at.push_back(index);
    add_boxes(std::move(at), inner.subspan(1), from - index * row, to - index * row, boxes);
  };
  const std::int64_t first = begin / row, last = end / row;
  if (first == last) return inside_row(first, begin, end);
  const std::int64_t rows_begin = (begin + row - 1) / row * row, rows_end = last * row;
  if (begin < rows_begin) inside_row(first, begin, rows_begin);
  add_boxes(outer, inner, rows_begin, rows_end, boxes);
  if (rows_end < end) inside_row(last, rows_end, end);
}

}  // namespace

std::int64_t Box::numel() const { return product(shape); }

std::vector<Box> boxes_of_range(const std::vector<std::int64_t>& shape, std::int64_t begin,
                                std::int64_t size) {
  std::vector<Box> boxes;
  add_boxes({}, shape, begin, begin + size, boxes);
  return boxes;
}

Box intersection(const Box& a, const Box& b) {
  Box shared = a;
  for (std::size_t d = 0; d < a.begin.size(); ++d) {
    shared.begin[d] = std::max(a.begin[d], b.begin[d]);
    const std::int64_t end = std::min(a.begin[d] + a.shape[d], b.begin[d] + b.shape[d]);
    shared.shape[d] = std::max<std::int64_t>(0, end - shared.begin[d]);
  }
  return shared;
}

at::Tensor view_of(const at::Tensor& data, const Box& box, const Box& inner) {
  at::Tensor view = data;
  for (std::size_t d = 0; d < box.begin.size(); ++d)
    view = view.narrow(static_cast<std::int64_t>(d), inner.begin[d] - box.begin[d], inner.shape[d]);
  return view;
}

std::string entry_name(const std::string& name, const std::vector<std::int64_t>& shape, const Box& box) {
  if (box.shape == shape) return name;
  std::string ranges;
  for (std::size_t d = 0; d < shape.size(); ++d)
    ranges += fmt::format("{}{}:{}", d > 0 ? "," : "", box.begin[d], box.begin[d] + box.shape[d]);
  return fmt::format("{}[{}]", name, ranges);
}

Shard whole_tensors(const std::string& section, const NamedTensors& tensors) {
  Shard shard;
  for (const auto& [name, tensor] : tensors)
    shard.push_back(
        {section,
         name,
         tensor.sizes().vec(),
         tensor.scalar_type(),
         {{std::vector<std::int64_t>(static_cast<std::size_t>(tensor.dim()), 0), tensor.detach()}}});
  return shard;
}

}  // namespace wuneng::trainer
