#include "parallel/flat_parameters.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <utility>

namespace wuneng::parallel {

FlatParameters::FlatParameters(const Parameters& parameters, const FlatLayout& layout, Background& data_group)
    : flat_(at::zeros({layout.size()}, parameters.front().value.options().requires_grad(false))),
      layout_(&layout),
      data_group_(&data_group),
      arrivals_(parameters.size(), 0) {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> views = layout.views(flat_);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    views[i].copy_(parameters[i].value);
    at::Tensor value = parameters[i].value;
    value.set_data(views[i]);
  }
}

void FlatParameters::gather() {
  if (!layout_->shared() || data_group_->size() == 1) return;
  std::vector<std::int64_t> calls(layout_->buckets());
  for (std::size_t b = layout_->buckets(); b-- > 0;)
    calls[b] =
        data_group_->submit([mine = layout_->piece(b).of(flat_), bucket = layout_->bucket(b).of(flat_)](
                                Communicator& group) { group.all_gather(mine, bucket); });
  for (std::size_t i = 0; i < arrivals_.size(); ++i) arrivals_[i] = calls[layout_->bucket_of(i)];
}

void FlatParameters::wait_for(std::size_t parameters) {
  if (std::exchange(stale_, false)) gather();
  if (parameters > 0) data_group_->wait(arrivals_[parameters - 1]);
}

}  // namespace wuneng::parallel
