// Where the parameters of this rank lie in flat memory, and how the ranks of the data axis share that out.
//
// They lie in the order in which the backward pass finishes their gradients, the reverse of use, in buckets
// of a few MiB, and each bucket is cut into one equal piece per rank. Parameters and pieces begin at
// multiples of `block` elements, so that what is computed block by block does not depend on the number of
// ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "parallel/parameters.h"

namespace wuneng::parallel {

class FlatLayout {
 public:
  static constexpr std::int64_t block = 1024;

  struct Range {  // of elements of flat memory
    std::int64_t begin, size;
    std::int64_t end() const { return begin + size; }
    at::Tensor of(const at::Tensor& flat) const { return flat.narrow(0, begin, size); }
  };

  // For `ranks` ranks of which this is `rank`. With `shared` each rank updates its pieces, else everything.
  FlatLayout(const Parameters& parameters, std::int64_t ranks, std::int64_t rank, bool shared);

  std::int64_t size() const { return buckets_.back().end(); }  // elements, padding included
  std::size_t buckets() const { return buckets_.size(); }
  Range bucket(std::size_t b) const { return buckets_[b]; }
  Range piece(std::size_t b) const;  // this rank's
  std::size_t bucket_of(std::size_t parameter) const { return bucket_of_[parameter]; }
  Range place(std::size_t parameter) const { return places_[parameter]; }

  // What this rank updates, in ascending order; and its size.
  const std::vector<Range>& owned() const { return owned_; }
  std::int64_t owned_size() const;
  bool shared() const { return shared_; }

  // The part of a parameter that lies in `range`; may be empty.
  Range part(std::size_t parameter, Range range) const;

  // One view per parameter, in its shape.
  std::vector<at::Tensor> views(const at::Tensor& flat) const;

 private:
  std::int64_t ranks_, rank_;
  bool shared_;
  std::vector<Range> buckets_, places_, owned_;
  std::vector<std::size_t> bucket_of_;
  std::vector<std::vector<std::int64_t>> shapes_;
};

}  // namespace wuneng::parallel
