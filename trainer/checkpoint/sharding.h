// Which part of the model and the optimizer this rank of the mesh writes into a checkpoint, and which part it
// needs back.
#pragma once

#include "parallel/flat_layout.h"
#include "parallel/parameters.h"
#include "trainer/checkpoint/shard.h"
#include "trainer/optimizer.h"

namespace wuneng::trainer {

// Where a rank stands in the mesh's tensor group.
struct TensorRank {
  int rank = 0, size = 1;
};

// Every element of every tensor once over all ranks of the mesh, evenly spread: a rank writes its piece of
// each bucket of `layout`, and of what several tensor ranks hold alike, one of them. Views of the live
// values.
Shard written_shard(const parallel::Parameters& parameters, const parallel::FlatLayout& layout,
                    const AdamW& optimizer, TensorRank tensor);

// What this rank needs: the parameters as it holds them, and the moments that it updates. Views to be filled;
// rows of padding are not in them.
Shard wanted_shard(const parallel::Parameters& parameters, const parallel::FlatLayout& layout,
                   const AdamW& optimizer);
// The parameters alone, for a model that is not trained.
Shard wanted_parameters(const parallel::Parameters& parameters);

// All of a model that lies on one rank, with the moments that an optimizer begins with.
Shard fresh_shard(const parallel::Parameters& parameters);

}  // namespace wuneng::trainer
