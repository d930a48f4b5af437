// Which tensor of another program's file is which of ours. A format says it once, and export and import both
// follow from it.
#pragma once

#include <ATen/core/Tensor.h>

#include <set>
#include <string>
#include <vector>

#include "trainer/formats/stored_tensors.h"

namespace wuneng::trainer {

// A tensor of theirs is one or more views of ours (a transpose, a row, another shape), beside each other
// along the last dimension: export joins what the views show, import writes into the views.
class TensorPairs {
 public:
  explicit TensorPairs(const NamedTensors& ours);

  // One of our tensors, to make views of. Throws UsageError when a setting took it away.
  at::Tensor ours(const std::string& name);
  const NamedTensors& all_of_ours() const { return ours_; }

  void add(const std::string& theirs, const std::vector<at::Tensor>& views);
  void add(const std::string& theirs, const at::Tensor& view) { add(theirs, std::vector{view}); }
  // For a tensor that only repeats another one: export leaves it out, an imported file may have it.
  void add_repeated(const std::string& theirs, const at::Tensor& view);
  // For what is no weight, such as a mask: an imported file may have it.
  void ignore(const std::string& theirs) { ignored_.insert(theirs); }

  // Throws UsageError when the format has no place for one of ours.
  NamedTensors to_theirs() const;
  // Throws UsageError, beginning with `place`, that lists missing, unknown and wrongly shaped tensors and
  // those of ours that the format has no place for. Needs the shapes of our tensors alone, not their memory.
  void check(const StoredTensors& theirs, const std::string& place) const;
  // Writes every tensor into ours, converted to our dtype; check() comes first.
  void to_ours(const StoredTensors& theirs, const std::string& place) const;

 private:
  struct Pair {
    std::string theirs;
    std::vector<at::Tensor> views;
    bool repeated;
  };

  std::vector<std::string> problems(const StoredTensors& theirs) const;
  std::vector<std::string> unpaired() const;

  NamedTensors ours_;
  std::vector<Pair> pairs_;
  std::set<std::string> used_, ignored_;  // names of ours; of theirs
};

}  // namespace wuneng::trainer
