// What the whole gradient needs from the tensor axis before the optimizer may use it. Both read and write
// only layout.owned() of a flat gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include "parallel/communicator.h"
#include "parallel/flat_layout.h"
#include "parallel/parameters.h"

namespace wuneng::parallel {

// Parameters with a partial gradient get the sum over the tensor group, those of which several ranks hold a
// copy the sum over these.
void sum_partial_gradients(const at::Tensor& flat, const Parameters& parameters, const FlatLayout& layout,
                           Communicator& tensor_group);

// Sum of squares over the whole model, in double: over fixed blocks of each parameter, added in order, then
// over tensor ranks; what several of these hold counts once. The same bits for every number of data-parallel
// ranks.
double sum_of_squares(const at::Tensor& flat, const Parameters& parameters, const FlatLayout& layout,
                      Communicator& data_group, Communicator& tensor_group);

}  // namespace wuneng::parallel
