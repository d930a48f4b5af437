// Where documents lie in a batch of rows that may continue earlier tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace wuneng::model {

class Documents {
 public:
  // B rows of T tokens after `position` earlier ones. `starts` as in data::Batch (may be undefined); `begin`
  // as in ModelState (may be empty).
  Documents(std::int64_t batch, std::int64_t length, const at::Tensor& starts, std::int64_t position,
            const std::vector<std::int64_t>& begin);

  const at::Tensor& starts() const { return starts_; }
  std::int64_t position() const { return position_; }

  // A run of tokens [first, last) of one row, in 0..T, that lie in one document, which began at absolute
  // position `begin` (counted from the first token ever seen by this state).
  struct Stretch {
    std::int64_t row, first, last, begin;
  };
  const std::vector<Stretch>& stretches() const { return stretches_; }  // row by row, in order

  // Every row is one stretch and all began at the same position: rows can be computed together.
  bool uniform() const { return uniform_; }

  // Each token's place in its document, [B, T] int64.
  at::Tensor places() const;

  // Where each row's last document began: the next call continues it.
  std::vector<std::int64_t> last_begin() const;

 private:
  at::Tensor starts_;
  std::int64_t position_;
  std::vector<Stretch> stretches_;
  bool uniform_ = true;
};

}  // namespace wuneng::model
