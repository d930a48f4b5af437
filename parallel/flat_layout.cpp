#include "parallel/flat_layout.h"

#include <algorithm>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

constexpr std::int64_t bucket_size = 2 << 20;  // elements from which on a bucket is full (8 MiB of float32)

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

FlatLayout::FlatLayout(const Parameters& parameters, std::int64_t ranks, std::int64_t rank, bool shared)
    : ranks_(ranks), rank_(rank), shared_(shared), places_(parameters.size()), bucket_of_(parameters.size()) {
  WN_CHECK(!parameters.empty() && ranks >= 1 && rank >= 0 && rank < ranks,
           "FlatLayout: {} parameters over rank {} of {}", parameters.size(), rank, ranks);
  std::int64_t begin = 0, end = 0;
  const auto close = [&] {
    end = begin + round_up(end - begin, ranks * block);
    buckets_.push_back({begin, end - begin});
    begin = end;
  };
  for (std::size_t i = parameters.size(); i-- > 0;) {
    places_[i] = {end, parameters[i].value.numel()};
    bucket_of_[i] = buckets_.size();
    end = round_up(end + places_[i].size, block);
    if (end - begin >= bucket_size) close();
  }
  if (end > begin) close();
  for (const Parameter& parameter : parameters) shapes_.push_back(parameter.value.sizes().vec());
  for (std::size_t b = 0; b < buckets_.size(); ++b) owned_.push_back(shared ? piece(b) : buckets_[b]);
}

FlatLayout::Range FlatLayout::piece(std::size_t b) const {
  const std::int64_t size = buckets_[b].size / ranks_;
  return {buckets_[b].begin + rank_ * size, size};
}

std::int64_t FlatLayout::owned_size() const {
  std::int64_t size = 0;
  for (const Range& range : owned_) size += range.size;
  return size;
}

FlatLayout::Range FlatLayout::part(std::size_t parameter, Range range) const {
  const Range place = places_[parameter];
  const std::int64_t begin = std::max(place.begin, range.begin), end = std::min(place.end(), range.end());
  return {begin, std::max<std::int64_t>(0, end - begin)};
}

std::vector<at::Tensor> FlatLayout::views(const at::Tensor& flat) const {
  std::vector<at::Tensor> parts;
  for (std::size_t i = 0; i < places_.size(); ++i) parts.push_back(places_[i].of(flat).view(shapes_[i]));
  return parts;
}

}  // namespace wuneng::parallel
