// The values of the parameters in flat memory, so that the ranks of the data axis can update a part each and
// gather the whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "parallel/background.h"
#include "parallel/flat_layout.h"
#include "parallel/parameters.h"

namespace wuneng::parallel {

class FlatParameters {
 public:
  // Moves the parameters' values into flat memory; they stay the model's.
  FlatParameters(const Parameters& parameters, const FlatLayout& layout, Background& data_group);

  const at::Tensor& values() const { return flat_; }

  // After an update of layout.owned(): the other ranks' pieces are to be brought over.
  void updated() { stale_ = true; }
  // Until the first `parameters`, in order of use, are there. The first wait after an update is what begins
  // to gather in the background, in order of use: begun with the update, all that ranks agree on between two
  // steps would queue behind it on the wire.
  void wait_for(std::size_t parameters);
  void wait() { wait_for(arrivals_.size()); }

 private:
  void gather();

  at::Tensor flat_;
  const FlatLayout* layout_;
  Background* data_group_;
  bool stale_ = false;
  std::vector<std::int64_t> arrivals_;  // of each parameter: the call that brings it
};

}  // namespace wuneng::parallel
