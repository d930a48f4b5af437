#include "model/documents.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace wuneng::model {

Documents::Documents(std::int64_t batch, std::int64_t length, const at::Tensor& starts, std::int64_t position,
                     const std::vector<std::int64_t>& begin)
    : starts_(starts), position_(position) {
  const std::int64_t* next = starts.defined() ? starts.const_data_ptr<std::int64_t>() : nullptr;
  const std::int64_t* end = starts.defined() ? next + starts.numel() : nullptr;
  for (std::int64_t row = 0; row < batch; ++row) {
    Stretch stretch{row, 0, length, begin.empty() ? 0 : begin[static_cast<std::size_t>(row)]};
    for (; next != end && *next < (row + 1) * length; ++next) {
      const std::int64_t t = *next - row * length;
      if (t > stretch.first) stretches_.push_back({row, stretch.first, t, stretch.begin});
      stretch = {row, t, length, position + t};
    }
    stretches_.push_back(stretch);
  }
  uniform_ = static_cast<std::int64_t>(stretches_.size()) == batch &&
             std::all_of(stretches_.begin(), stretches_.end(),
                         [&](const Stretch& s) { return s.begin == stretches_.front().begin; });
}

at::Tensor Documents::places() const {
  const std::int64_t rows = stretches_.back().row + 1, length = stretches_.back().last;
  const at::Tensor places = at::empty({rows, length}, at::kLong);
  auto* place = places.mutable_data_ptr<std::int64_t>();  // stretches are all tokens in order
  for (const Stretch& stretch : stretches_)
    for (std::int64_t t = stretch.first; t < stretch.last; ++t) *place++ = position_ + t - stretch.begin;
  return places;
}

std::vector<std::int64_t> Documents::last_begin() const {
  std::vector<std::int64_t> begins;
  for (const Stretch& stretch : stretches_) {
    if (stretch.row == static_cast<std::int64_t>(begins.size())) begins.push_back(stretch.begin);
    begins.back() = stretch.begin;
  }
  return begins;
}

}  // namespace wuneng::model
