#include "trainer/formats/tensor_pairs.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

constexpr std::size_t problems_shown = 5;

// The shape of the views beside each other.
std::vector<std::int64_t> joined_shape(const std::vector<at::Tensor>& views) {
  std::vector<std::int64_t> shape = views[0].sizes().vec();
  for (std::size_t i = 1; i < views.size(); ++i) shape.back() += views[i].size(-1);
  return shape;
}

}  // namespace

TensorPairs::TensorPairs(const NamedTensors& ours) : ours_(ours) {}

at::Tensor TensorPairs::ours(const std::string& name) {
  const auto found = std::ranges::find(ours_, name, [](const auto& tensor) { return tensor.first; });
  WN_REQUIRE(found != ours_.end(),
             "the configuration gives the model no {}, which every model of this format has; leave out the "
             "--set that takes it away",
             name);
  used_.insert(name);
  return found->second;
}

void TensorPairs::add(const std::string& theirs, const std::vector<at::Tensor>& views) {
  pairs_.push_back({theirs, views, false});
}

void TensorPairs::add_repeated(const std::string& theirs, const at::Tensor& view) {
  pairs_.push_back({theirs, {view}, true});
}

std::vector<std::string> TensorPairs::unpaired() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : ours_)
    if (!used_.contains(name)) names.push_back(name);
  return names;
}

NamedTensors TensorPairs::to_theirs() const {
  const std::vector<std::string> lost = unpaired();
  WN_REQUIRE(lost.empty(),
             "the format has no place for {}; use --format safetensors, which holds every model",
             fmt::join(lost, ", "));
  NamedTensors theirs;
  for (const Pair& pair : pairs_)
    if (!pair.repeated)
      theirs.emplace_back(pair.theirs,
                          pair.views.size() == 1 ? pair.views[0].contiguous() : at::cat(pair.views, -1));
  return theirs;
}

std::vector<std::string> TensorPairs::problems(const StoredTensors& theirs) const {
  std::vector<std::string> lines;
  std::set<std::string> known = ignored_;
  for (const Pair& pair : pairs_) {
    known.insert(pair.theirs);
    const auto found = theirs.find(pair.theirs);
    const std::vector<std::int64_t> wanted = joined_shape(pair.views);
    if (found == theirs.end()) {
      if (!pair.repeated)
        lines.push_back(fmt::format("{}: is missing; [{}] is wanted", pair.theirs, fmt::join(wanted, ", ")));
    } else if (found->second.shape != wanted || !c10::isFloatingType(found->second.dtype)) {
      lines.push_back(fmt::format("{}: is {}; floating-point [{}] is wanted", pair.theirs,
                                  describe(found->second), fmt::join(wanted, ", ")));
    }
  }
  for (const auto& [name, tensor] : theirs)
    if (!known.contains(name)) lines.push_back(fmt::format("{}: {} is unknown", name, describe(tensor)));
  for (const std::string& name : unpaired())
    lines.push_back(fmt::format("{}: our model has this parameter, the format has not", name));
  return lines;
}

void TensorPairs::check(const StoredTensors& theirs, const std::string& place) const {
  std::vector<std::string> lines = problems(theirs);
  if (lines.size() > problems_shown) {
    const std::string more = fmt::format("and {} more", lines.size() - problems_shown);
    lines.resize(problems_shown);
    lines.push_back(more);
  }
  WN_REQUIRE(lines.empty(),
             "{}: its tensors are not those of the model that it describes; give a whole, unchanged model of "
             "this format, and no --set that changes its shape:\n  {}",
             place, fmt::join(lines, "\n  "));
}

void TensorPairs::to_ours(const StoredTensors& theirs, const std::string& place) const {
  const at::NoGradGuard no_grad;
  std::set<const void*> written;
  for (const Pair& pair : pairs_) {
    const auto found = theirs.find(pair.theirs);
    if (found == theirs.end()) continue;  // a repeated one
    const at::Tensor whole = found->second.read();
    std::int64_t begin = 0;
    for (at::Tensor view : pair.views) {
      const at::Tensor part = whole.narrow(-1, begin, view.size(-1));
      begin += view.size(-1);
      if (written.insert(view.const_data_ptr()).second)
        view.copy_(part);
      else
        WN_REQUIRE(view.equal(part.to(view.scalar_type())),
                   "{}: {}: has other values than the tensor that it must be equal to, because the model's "
                   "head is tied to its embedding; import it with an untied head (llama, gpt2: "
                   "\"tie_word_embeddings\": false in config.json)",
                   place, pair.theirs);
    }
  }
}

}  // namespace wuneng::trainer
