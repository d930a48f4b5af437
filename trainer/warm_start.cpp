#include "trainer/warm_start.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <sstream>

#include "common/check.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/sharding.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {
namespace {

constexpr std::size_t names_shown = 5;

// Patterns, each of which must name something.
class Patterns {
 public:
  Patterns(const char* key, const std::string& text) : key_(key), text_(text) {
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, ',');) {
      part.erase(0, part.find_first_not_of(' '));
      part.erase(part.find_last_not_of(' ') + 1);
      if (!part.empty()) used_[part] = false;
    }
  }
  bool match(const std::string& name) {
    bool any = false;
    for (auto& [pattern, used] : used_)
      if (::fnmatch(pattern.c_str(), name.c_str(), 0) == 0) any = used = true;
    return any;
  }
  void check_used() const {
    for (const auto& [pattern, used] : used_)
      WN_REQUIRE(used, "{} = \"{}\": no tensor needs the pattern \"{}\"; leave it out, or mend it", key_,
                 text_, pattern);
  }

 private:
  const char* key_;
  std::string text_;
  std::map<std::string, bool> used_;
};

// The model that is begun from: what it holds, and how to read it.
struct Source {
  struct Tensor {
    std::vector<std::int64_t> shape;
    at::ScalarType dtype;
  };
  std::map<std::string, Tensor> tensors;
  std::function<void(const Shard&)> load;
  std::string tokenizer;
};

Source from_checkpoint(const std::filesystem::path& path) {
  const auto checkpoint = std::make_shared<const Checkpoint>(resolve_checkpoint(path));
  Source source;
  for (const SavedTensor& tensor : checkpoint->tensors())
    if (tensor.section == "model") source.tensors[tensor.name] = {tensor.shape, tensor.dtype};
  source.load = [checkpoint](const Shard& wanted) { checkpoint->load_some(wanted); };
  source.tokenizer = checkpoint->info().tokenizer;
  return source;
}

Source from_exported(const std::filesystem::path& path) {
  const auto file = std::make_shared<const SafetensorsFile>(path);
  Source source;
  for (const auto& [name, entry] : file->entries()) source.tensors[name] = {entry.shape, entry.dtype};
  source.load = [file](const Shard& wanted) {
    for (const TensorPieces& tensor : wanted)
      for (const Piece& piece : tensor.pieces) {
        const Box whole{std::vector<std::int64_t>(tensor.shape.size(), 0), tensor.shape};
        const at::Tensor target = piece.data;
        target.copy_(view_of(file->read(tensor.name), whole, piece.box()));
      }
  };
  if (const auto found = file->metadata().find("tokenizer"); found != file->metadata().end())
    source.tokenizer = found->second;
  return source;
}

Source open(const std::string& path) {
  try {
    return std::filesystem::is_directory(path) ? from_checkpoint(path) : from_exported(path);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("trainer.init.from: {}", error.what()));
  }
}

std::string list(std::vector<std::string> names) {
  const std::size_t more = names.size() - std::min(names.size(), names_shown);
  names.resize(names.size() - more);
  return fmt::format("{}{}", fmt::join(names, ", "), more > 0 ? fmt::format(" and {} more", more) : "");
}

// Throws when any name is neither taken nor allowed to be left.
void check_left(const InitConfig& init, const std::vector<std::string>& left, const std::string& why,
                const char* key) {
  WN_REQUIRE(left.empty(),
             "trainer.init.from = \"{}\": {}: {}; where that is meant, name them in trainer.init.{}",
             init.from, why, list(left), key);
}

}  // namespace

WarmStart warm_start(const InitConfig& init, const parallel::Parameters& parameters) {
  const Source source = open(init.from);
  Patterns fresh("trainer.init.fresh", init.fresh), unused("trainer.init.unused", init.unused);
  Shard taken;
  std::vector<std::string> missing, other_shape, kept, surplus;
  std::set<std::string> names;
  for (TensorPieces& tensor : wanted_parameters(parameters)) {
    names.insert(tensor.name);
    const auto found = source.tensors.find(tensor.name);
    const bool there = found != source.tensors.end();
    if (there && found->second.shape == tensor.shape && found->second.dtype == tensor.dtype)
      taken.push_back(std::move(tensor));
    else if (fresh.match(tensor.name))
      kept.push_back(tensor.name);
    else
      (there ? other_shape : missing).push_back(tensor.name);
  }
  for (const auto& [name, tensor] : source.tensors)
    if (!names.contains(name) && !unused.match(name)) surplus.push_back(name);
  check_left(init, missing, "it lacks tensors of the model", "fresh");
  check_left(init, other_shape, "tensors have another shape or dtype there than in the model", "fresh");
  check_left(init, surplus, "the model lacks tensors that it has", "unused");
  fresh.check_used();
  unused.check_used();
  source.load(taken);
  return {fmt::format("{} tensors from {}{}", taken.size(), init.from,
                      kept.empty() ? "" : fmt::format(", {} fresh: {}", kept.size(), list(kept))),
          source.tokenizer};
}

}  // namespace wuneng::trainer
