// The gradient of a global batch as a sum whose order never depends on the number of ranks.
//
// The batch is a fixed list of M = 2^k * q micro-batches (q odd). Leaves of the tree are runs of q
// neighbouring micro-batches, added one after the other; neighbouring leaves are added pairwise, then the
// pairs, and so on up to the root. With D = 2^d <= 2^k data-parallel ranks each rank owns one aligned
// subtree; across ranks every rank receives its piece of all D subtree sums (all-to-all) and adds them in
// tree order, then the pieces are gathered: the same bytes as a ring all-reduce, and the same bits for every
// D.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/parameters.h"

namespace wuneng::parallel {

// Throws UsageError with the numbers and valid choices unless `ranks` is a power of two that divides
// `micro_batches`.
void check_tree(std::int64_t micro_batches, std::int64_t ranks);

class GradientTree {
 public:
  // `micro_batches`: of one global batch, over all ranks of `data_group`.
  GradientTree(const Parameters& parameters, Communicator& data_group, std::int64_t micro_batches);

  std::int64_t local_micro_batches() const { return local_; }

  // Around the backward pass of each of this rank's micro-batches, in order: points the parameters' .grad at
  // a buffer, and adds the result to the tree.
  void begin_micro_batch();
  void end_micro_batch();

  // After the last local micro-batch: the sum over all ranks, one tensor per parameter, valid until the next
  // begin_micro_batch().
  const std::vector<at::Tensor>& reduce();

  // At most log2(local micro-batches) + 1 buffers of the size of all parameters are held.
  std::int64_t buffers() const { return static_cast<std::int64_t>(pool_.size() + pending_.size()); }

 private:
  struct Sum {
    at::Tensor flat;  // [padded parameters]
    int level;        // holds 2^level leaves
  };
  std::vector<at::Tensor> views(const at::Tensor& flat) const;
  at::Tensor take_buffer();
  void reduce_over_ranks(const at::Tensor& flat);

  std::vector<at::Tensor> parameters_;
  std::vector<std::int64_t> offsets_;
  std::int64_t flat_size_ = 0;
  Communicator* data_group_;
  std::int64_t local_ = 0;        // micro-batches of this rank
  std::int64_t leaf_ = 1;         // micro-batches per leaf
  std::int64_t done_ = 0;         // micro-batches finished in this step
  at::Tensor leaf_sum_;           // the leaf being accumulated
  std::vector<Sum> pending_;      // a binary counter: levels strictly decreasing
  std::vector<at::Tensor> pool_;  // free buffers
  std::vector<at::Tensor> result_;
};

}  // namespace wuneng::parallel
