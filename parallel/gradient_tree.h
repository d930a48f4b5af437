// The gradient of a global batch as a sum whose order never depends on the number of ranks.
//
// The batch is a fixed list of M = 2^k * q micro-batches (q odd). Leaves of the tree are runs of q
// neighbouring micro-batches, added one after the other; neighbouring leaves are added pairwise, then the
// pairs, and so on up to the root. With D = 2^d <= 2^k data-parallel ranks each rank owns one aligned
// subtree; across ranks every rank receives its piece of all D subtree sums (all-to-all) and adds them in
// tree order: the same bytes as a ring's reduce-scatter, and the same bits for every D.
//
// A bucket of the last micro-batch's gradient is on its way to the other ranks as soon as the backward pass
// has finished its parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/background.h"
#include "parallel/config.h"
#include "parallel/flat_layout.h"
#include "parallel/parameters.h"

namespace torch::autograd {
struct Node;
}

namespace wuneng::parallel {

// Throws UsageError with the numbers and valid choices unless `ranks` divides `micro_batches`, and is a power
// of two where the order of the sum is to be that of the tree.
void check_tree(std::int64_t micro_batches, std::int64_t ranks, Reduction reduction);

// all [ranks, piece], contiguous: this rank's row becomes the sum over ranks, a power of two of them, of
// their rows all[rank], added pairwise in the order of the ranks. The other rows stay as they are.
void reduce_scatter_tree(const at::Tensor& all, Communicator& group);

class GradientTree {
 public:
  // `micro_batches`: of one global batch, over all ranks of `data_group`. The parameters' gradients are led
  // here until this object is gone.
  GradientTree(const Parameters& parameters, const FlatLayout& layout, Background& data_group,
               std::int64_t micro_batches, Reduction reduction = Reduction::tree);
  ~GradientTree();
  GradientTree(const GradientTree&) = delete;
  GradientTree& operator=(const GradientTree&) = delete;

  std::int64_t local_micro_batches() const { return local_; }

  // Around the backward pass of each of this rank's micro-batches, in order: points the parameters' .grad at
  // a buffer, and adds the result to the tree.
  void begin_micro_batch();
  void end_micro_batch();

  // After the last local micro-batch: the sum over all ranks in flat memory, of which layout.owned() counts.
  // Valid until the next begin_micro_batch().
  const at::Tensor& reduce();

  // At most log2(local micro-batches) + 1 buffers of the size of all parameters are held.
  std::int64_t buffers() const { return static_cast<std::int64_t>(pool_.size() + pending_.size()); }

 private:
  struct Sum {
    at::Tensor flat;
    int level;  // holds 2^level leaves
  };
  class Hook;

  bool in_last() const { return done_ + 1 == local_; }
  void gradient_is_complete(std::size_t parameter);
  void send_bucket(std::size_t b);
  void reduce_bucket(std::size_t b, const at::Tensor& flat, Communicator& group) const;
  at::Tensor total() const { return pending_.empty() ? leaf_sum_ : pending_.front().flat; }
  at::Tensor take_buffer();

  std::vector<at::Tensor> parameters_;
  const FlatLayout* layout_;
  Background* data_group_;
  Reduction reduction_;
  std::int64_t local_ = 0;        // micro-batches of this rank
  std::int64_t leaf_ = 1;         // micro-batches per leaf
  std::int64_t done_ = 0;         // micro-batches finished in this step
  at::Tensor leaf_sum_;           // the leaf being accumulated
  std::vector<Sum> pending_;      // a binary counter: levels strictly decreasing
  std::vector<at::Tensor> pool_;  // free buffers
  at::Tensor result_;

  // What accumulates the parameters' gradients, which lives as long as somebody holds it; and our hook in it.
  std::vector<std::pair<std::shared_ptr<torch::autograd::Node>, std::uintptr_t>> hooks_;
  std::vector<std::int64_t> missing_;  // gradients of each bucket that the last backward pass still owes
  std::size_t sent_ = 0;               // buckets; they go in order, the same on every rank
};

}  // namespace wuneng::parallel
