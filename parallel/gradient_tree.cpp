#include "parallel/gradient_tree.h"

#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

constexpr std::int64_t alignment = 64;  // elements between the starts of parameters
constexpr std::int64_t piece_slice = 1
                                     << 18;  // elements per rank and exchange across ranks (1 MiB of float32)

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// rows[0 .. n) summed pairwise into rows[0]; n is a power of two.
void sum_tree(std::vector<at::Tensor> rows) {
  for (std::size_t n = rows.size(); n > 1; n /= 2)
    for (std::size_t i = 0; i < n / 2; ++i) {
      at::add_out(rows[2 * i], rows[2 * i], rows[2 * i + 1]);
      rows[i] = rows[2 * i];
    }
}

}  // namespace

void check_tree(std::int64_t micro_batches, std::int64_t ranks) {
  const bool power_of_two = (ranks & (ranks - 1)) == 0;
  if (power_of_two && micro_batches % ranks == 0) return;
  std::string valid;
  for (std::int64_t d = 1; micro_batches % d == 0; d *= 2)
    valid += fmt::format("{}{}", valid.empty() ? "" : ", ", d);
  throw UsageError(
      fmt::format("{} data-parallel ranks cannot share {} micro-batches (trainer.global_batch / "
                  "trainer.micro_batch) bit for bit: the number of ranks must be a power of two that "
                  "divides them: {}",
                  ranks, micro_batches, valid));
}

GradientTree::GradientTree(const Parameters& parameters, Communicator& data_group, std::int64_t micro_batches)
    : data_group_(&data_group) {
  check_tree(micro_batches, data_group.size());
  local_ = micro_batches / data_group.size();
  for (leaf_ = micro_batches; leaf_ % 2 == 0;) leaf_ /= 2;
  for (const Parameter& parameter : parameters) {
    parameters_.push_back(parameter.value);
    offsets_.push_back(flat_size_);
    flat_size_ = round_up(flat_size_ + parameter.value.numel(), alignment);
  }
  flat_size_ = round_up(flat_size_, alignment * data_group.size());
}

void GradientTree::begin_micro_batch() {
  if (done_ % leaf_ == 0) {
    if (done_ == 0) result_.clear();
    leaf_sum_ = take_buffer();
    leaf_sum_.zero_();
  }
  const std::vector<at::Tensor> gradients = views(leaf_sum_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
}

void GradientTree::end_micro_batch() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
  if (++done_ % leaf_ != 0) return;
  Sum sum{std::move(leaf_sum_), 0};
  while (!pending_.empty() && pending_.back().level == sum.level) {
    pending_.back().flat.add_(sum.flat);
    pool_.push_back(std::move(sum.flat));
    sum = {std::move(pending_.back().flat), sum.level + 1};
    pending_.pop_back();
  }
  pending_.push_back(std::move(sum));
}

const std::vector<at::Tensor>& GradientTree::reduce() {
  WN_CHECK(done_ == local_ && pending_.size() == 1, "GradientTree: {} of {} micro-batches done", done_,
           local_);
  const at::Tensor flat = std::move(pending_.back().flat);
  pending_.clear();
  done_ = 0;
  reduce_over_ranks(flat);
  result_ = views(flat);
  pool_.push_back(flat);
  return result_;
}

void GradientTree::reduce_over_ranks(const at::Tensor& flat) {
  const std::int64_t ranks = data_group_->size();
  if (ranks == 1) return;
  const std::int64_t piece = flat_size_ / ranks;
  const at::Tensor pieces = flat.view({ranks, piece});
  const std::int64_t slice = std::min(piece, piece_slice);
  const at::Tensor received = at::empty({ranks * slice}, flat.options());
  for (std::int64_t begin = 0; begin < piece; begin += slice) {
    const std::int64_t n = std::min(slice, piece - begin);
    const at::Tensor rows = received.narrow(0, 0, ranks * n).view({ranks, n});
    data_group_->all_to_all(pieces.narrow(1, begin, n).contiguous(), rows);
    sum_tree(rows.unbind(0));
    pieces[data_group_->rank()].narrow(0, begin, n).copy_(rows[0]);
  }
  data_group_->all_gather(pieces[data_group_->rank()].clone(), flat);
}

std::vector<at::Tensor> GradientTree::views(const at::Tensor& flat) const {
  std::vector<at::Tensor> parts;
  for (std::size_t i = 0; i < parameters_.size(); ++i)
    parts.push_back(flat.narrow(0, offsets_[i], parameters_[i].numel()).view(parameters_[i].sizes()));
  return parts;
}

at::Tensor GradientTree::take_buffer() {
  if (pool_.empty()) return at::empty({flat_size_}, parameters_.front().options().requires_grad(false));
  at::Tensor buffer = std::move(pool_.back());
  pool_.pop_back();
  return buffer;
}

}  // namespace wuneng::parallel
