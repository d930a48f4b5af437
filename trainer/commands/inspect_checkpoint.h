// What `wuneng inspect` says of checkpoints.
#pragma once

#include "trainer/checkpoint/checkpoint.h"

namespace wuneng::trainer {

// Position, what is known of the run, and every tensor with its hash (of the whole, however it is cut).
void print_checkpoint(const Checkpoint& checkpoint, bool json);

// Positions, configuration keys and tensors in which two checkpoints differ.
void print_difference(const Checkpoint& ours, const Checkpoint& theirs, bool json);

}  // namespace wuneng::trainer
