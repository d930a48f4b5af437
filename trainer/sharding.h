// Between whole tensors, as checkpoints hold them, and the parts that each rank of the mesh holds.
#pragma once

#include <vector>

#include "parallel/communicator.h"
#include "parallel/flat_layout.h"
#include "parallel/parameters.h"
#include "trainer/checkpoint.h"
#include "trainer/optimizer.h"
#include "trainer/safetensors.h"

namespace wuneng::trainer {

// For Checkpoint::load_model and load_optimizer: each takes this rank's part from the whole. What they refer
// to must outlive them.
std::vector<Checkpoint::Wanted> wanted_parts(const parallel::Parameters& parameters);
std::vector<Checkpoint::Wanted> wanted_moments(const parallel::Parameters& parameters,
                                               const parallel::FlatLayout& layout, const AdamW& optimizer);

// The whole tensors, gathered from all ranks of the mesh, which all call this. Only the ranks of the first
// data-parallel rank get them; the others get none.
NamedTensors whole_parameters(const parallel::Parameters& parameters, parallel::Communicator& data_group,
                              parallel::Communicator& tensor_group);
NamedTensors whole_moments(const parallel::Parameters& parameters, const parallel::FlatLayout& layout,
                           const AdamW& optimizer, parallel::Communicator& data_group,
                           parallel::Communicator& tensor_group);

// The moments that an optimizer begins with.
NamedTensors zero_moments(const parallel::Parameters& parameters);

}  // namespace wuneng::trainer
