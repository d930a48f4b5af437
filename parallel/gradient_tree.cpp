#include "parallel/gradient_tree.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>

#include "common/check.h"

namespace wuneng::parallel {
namespace {

constexpr std::int64_t exchange_bytes = 2 << 20;  // handed to one exchange across ranks

// rows[0 .. n) summed pairwise into rows[0]; n is a power of two.
void sum_tree(std::vector<at::Tensor> rows) {
  for (std::size_t n = rows.size(); n > 1; n /= 2)
    for (std::size_t i = 0; i < n / 2; ++i) {
      at::add_out(rows[2 * i], rows[2 * i], rows[2 * i + 1]);
      rows[i] = rows[2 * i];
    }
}

}  // namespace

void reduce_scatter_tree(const at::Tensor& all, Communicator& group) {
  const std::int64_t ranks = all.size(0), piece = all.size(1),
                     most = exchange_bytes / ranks / static_cast<std::int64_t>(all.element_size()),
                     slice = std::min(piece, most);
  const at::Tensor send = at::empty({ranks * slice}, all.options()), received = at::empty_like(send);
  for (std::int64_t begin = 0; begin < piece; begin += slice) {
    const std::int64_t n = std::min(slice, piece - begin);
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, 0, ranks * n).view({ranks, n}); };
    rows(send).copy_(all.narrow(1, begin, n));
    group.all_to_all(rows(send), rows(received));
    sum_tree(rows(received).unbind(0));
    all[group.rank()].narrow(0, begin, n).copy_(rows(received)[0]);
  }
}

void check_tree(std::int64_t micro_batches, std::int64_t ranks, Reduction reduction) {
  const bool any = reduction == Reduction::fast, power_of_two = (ranks & (ranks - 1)) == 0;
  if ((any || power_of_two) && micro_batches % ranks == 0) return;
  std::string valid;
  for (std::int64_t d = 1; d <= micro_batches; any ? ++d : d *= 2)
    if (micro_batches % d == 0) valid += fmt::format("{}{}", valid.empty() ? "" : ", ", d);
  throw UsageError(fmt::format(
      "{} data-parallel ranks cannot share {} micro-batches (trainer.global_batch / trainer.micro_batch){}: "
      "the number of ranks must {}: {}",
      ranks, micro_batches, any ? "" : " bit for bit",
      any ? "divide them" : "be a power of two that divides them (or set parallel.reduction=fast)", valid));
}

// Called by the backward pass when a parameter's gradient is complete.
class GradientTree::Hook final : public torch::autograd::FunctionPostHook {
 public:
  Hook(GradientTree* tree, std::size_t parameter) : tree_(tree), parameter_(parameter) {}
  torch::autograd::variable_list operator()(const torch::autograd::variable_list& outputs,
                                            const torch::autograd::variable_list&) override {
    tree_->gradient_is_complete(parameter_);
    return outputs;
  }

 private:
  GradientTree* tree_;
  std::size_t parameter_;
};

GradientTree::GradientTree(const Parameters& parameters, const FlatLayout& layout, Background& data_group,
                           std::int64_t micro_batches, Reduction reduction)
    : layout_(&layout), data_group_(&data_group), reduction_(reduction) {
  check_tree(micro_batches, data_group.size(), reduction);
  local_ = micro_batches / data_group.size();
  for (leaf_ = micro_batches; leaf_ % 2 == 0;) leaf_ /= 2;
  if (reduction == Reduction::fast) leaf_ = local_;  // added one after the other
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    parameters_.push_back(parameters[i].value);
    const auto accumulator = torch::autograd::impl::grad_accumulator(parameters[i].value);
    hooks_.emplace_back(accumulator, accumulator->add_post_hook(std::make_unique<Hook>(this, i)));
  }
}

GradientTree::~GradientTree() {
  for (const auto& [accumulator, hook] : hooks_) accumulator->del_post_hook(hook);
}

void GradientTree::begin_micro_batch() {
  if (done_ % leaf_ == 0) {
    if (result_.defined()) pool_.push_back(std::move(result_));
    leaf_sum_ = take_buffer();
    leaf_sum_.zero_();
  }
  const std::vector<at::Tensor> gradients = layout_->views(leaf_sum_);
  for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].mutable_grad() = gradients[i];
  if (!in_last()) return;
  sent_ = 0;
  missing_.assign(layout_->buckets(), 0);
  for (std::size_t i = 0; i < parameters_.size(); ++i) ++missing_[layout_->bucket_of(i)];
}

void GradientTree::gradient_is_complete(std::size_t parameter) {
  if (!in_last() || sent_ == layout_->buckets()) return;
  --missing_[layout_->bucket_of(parameter)];
  while (sent_ < layout_->buckets() && missing_[sent_] == 0) send_bucket(sent_++);
}

void GradientTree::end_micro_batch() {
  for (at::Tensor& parameter : parameters_) parameter.mutable_grad().reset();
  if (in_last())  // parameters that the model did not use
    while (sent_ < layout_->buckets()) send_bucket(sent_++);
  if (++done_ % leaf_ != 0 || done_ == local_) return;
  Sum sum{std::move(leaf_sum_), 0};
  while (!pending_.empty() && pending_.back().level == sum.level) {
    pending_.back().flat.add_(sum.flat);
    pool_.push_back(std::move(sum.flat));
    sum = {std::move(pending_.back().flat), sum.level + 1};
    pending_.pop_back();
  }
  pending_.push_back(std::move(sum));
}

// Adds the bucket's last leaf up to the root of this rank's subtree, and hands the sum to the other ranks.
void GradientTree::send_bucket(std::size_t b) {
  const at::NoGradGuard no_grad;
  const FlatLayout::Range bucket = layout_->bucket(b);
  at::Tensor sum = bucket.of(leaf_sum_);
  for (std::size_t i = pending_.size(); i-- > 0;) {
    bucket.of(pending_[i].flat).add_(sum);
    sum = bucket.of(pending_[i].flat);
  }
  if (data_group_->size() == 1) return;
  data_group_->submit([this, b, flat = total()](Communicator& group) { reduce_bucket(b, flat, group); });
}

void GradientTree::reduce_bucket(std::size_t b, const at::Tensor& flat, Communicator& group) const {
  const at::Tensor bucket = layout_->bucket(b).of(flat), mine = layout_->piece(b).of(flat);
  if (reduction_ == Reduction::fast)
    group.reduce_scatter_sum(bucket, mine);
  else
    reduce_scatter_tree(bucket.view({group.size(), -1}), group);
  if (!layout_->shared()) group.all_gather(mine, bucket);
}

const at::Tensor& GradientTree::reduce() {
  WN_CHECK(done_ == local_, "GradientTree: {} of {} micro-batches done", done_, local_);
  data_group_->wait();
  result_ = total();
  for (std::size_t i = 1; i < pending_.size(); ++i) pool_.push_back(std::move(pending_[i].flat));
  if (!pending_.empty()) pool_.push_back(std::move(leaf_sum_));
  leaf_sum_.reset();
  pending_.clear();
  done_ = 0;
  return result_;
}

at::Tensor GradientTree::take_buffer() {
  if (pool_.empty()) return at::zeros({layout_->size()}, parameters_.front().options().requires_grad(false));
  at::Tensor buffer = std::move(pool_.back());
  pool_.pop_back();
  return buffer;
}

}  // namespace wuneng::parallel
