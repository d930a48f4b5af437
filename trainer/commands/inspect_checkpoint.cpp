#include "trainer/commands/inspect_checkpoint.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/max.h>
#include <ATen/ops/sub.h>

#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "common/hash.h"
#include "common/json.h"
#include "trainer/config.h"

namespace wuneng::trainer {
namespace {

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// Of all bytes of the tensor; those of one that is cut are put together first.
std::uint64_t hash_of(const Checkpoint& checkpoint, const SavedTensor& tensor) {
  if (tensor.slices.size() == 1) return tensor.slices[0].hash;
  const at::Tensor whole = checkpoint.read(tensor);
  return hash_bytes(whole.const_data_ptr(), whole.nbytes());
}

Json describe(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info();
  Json tensors = Json::array();
  for (const SavedTensor& tensor : checkpoint.tensors())
    tensors.push_back({{"section", tensor.section},
                       {"name", tensor.name},
                       {"dtype", c10::toString(tensor.dtype)},
                       {"shape", tensor.shape},
                       {"bytes", tensor.bytes},
                       {"slices", tensor.slices.size()},
                       {"xxh3", hex(hash_of(checkpoint, tensor))}});
  return {{"folder", checkpoint.folder().string()},
          {"step", info.position.step},
          {"samples", info.position.samples},
          {"tokens", info.position.tokens},
          {"validation_loss", info.validation_loss ? Json(*info.validation_loss) : Json()},
          {"data_hash", hex(info.data_hash)},
          {"facts", Json::parse(info.facts)},
          {"tensors", tensors}};
}

std::string position_text(const Position& position) {
  return fmt::format("step {}, {} samples, {} tokens", position.step, position.samples, position.tokens);
}

using ByName = std::map<std::pair<std::string, std::string>, const SavedTensor*>;

ByName by_name(const Checkpoint& checkpoint) {
  ByName tensors;
  for (const SavedTensor& tensor : checkpoint.tensors()) tensors[{tensor.section, tensor.name}] = &tensor;
  return tensors;
}

// "" when they are equal to the bit.
std::string tensor_difference(const Checkpoint& ours, const SavedTensor& a, const Checkpoint& theirs,
                              const SavedTensor& b) {
  if (a.shape != b.shape || a.dtype != b.dtype)
    return fmt::format("{} {} -> {} {}", c10::toString(a.dtype), shape_text(a.shape), c10::toString(b.dtype),
                       shape_text(b.shape));
  if (hash_of(ours, a) == hash_of(theirs, b)) return {};
  const at::Tensor difference = theirs.read(b).to(at::kDouble).sub(ours.read(a).to(at::kDouble)).abs();
  return fmt::format("largest difference {:.3g}", difference.max().item<double>());
}

Json difference(const Checkpoint& ours, const Checkpoint& theirs) {
  Json tensors = Json::object();
  const ByName a = by_name(ours), b = by_name(theirs);
  for (const auto& [key, tensor] : a) {
    const auto found = b.find(key);
    const std::string text = found == b.end() ? fmt::format("not in {}", theirs.folder().string())
                                              : tensor_difference(ours, *tensor, theirs, *found->second);
    if (!text.empty()) tensors[key.first + " " + key.second] = text;
  }
  for (const auto& [key, tensor] : b)
    if (!a.contains(key))
      tensors[key.first + " " + key.second] = fmt::format("not in {}", ours.folder().string());
  const auto config = [](const Checkpoint& checkpoint) {
    return parse_config(checkpoint.info().config, checkpoint.folder().string());
  };
  return {{"position", {position_text(ours.info().position), position_text(theirs.info().position)}},
          {"same_data", ours.info().data_hash == theirs.info().data_hash},
          {"config", differences(config(ours), config(theirs))},
          {"tensors", tensors},
          {"equal_tensors", a.size() - std::min(a.size(), tensors.size())}};
}

}  // namespace

void print_checkpoint(const Checkpoint& checkpoint, bool json) {
  if (json) return fmt::print("{}\n", describe(checkpoint).dump(2));
  const CheckpointInfo& info = checkpoint.info();
  fmt::print("{}\n{}{}\n", checkpoint.folder().string(), position_text(info.position),
             info.validation_loss ? fmt::format(", validation loss {:.4f}", *info.validation_loss) : "");
  std::uint64_t bytes = 0;
  for (const SavedTensor& tensor : checkpoint.tensors()) {
    fmt::print("{:<10} {:<44} {:<8} {:<14} {}\n", tensor.section, tensor.name, c10::toString(tensor.dtype),
               shape_text(tensor.shape), hex(hash_of(checkpoint, tensor)));
    bytes += tensor.bytes;
  }
  fmt::print("{} tensors, {:.2f} MiB\n", checkpoint.tensors().size(),
             static_cast<double>(bytes) / (1024.0 * 1024.0));
}

void print_difference(const Checkpoint& ours, const Checkpoint& theirs, bool json) {
  const Json found = difference(ours, theirs);
  if (json) return fmt::print("{}\n", found.dump(2));
  fmt::print("{}: {}\n{}: {}\n", ours.folder().string(), found["position"][0].get<std::string>(),
             theirs.folder().string(), found["position"][1].get<std::string>());
  if (!found["same_data"].get<bool>()) fmt::print("trained on other data\n");
  for (const Json& line : found["config"]) fmt::print("{}\n", line.get<std::string>());
  for (const auto& [name, text] : found["tensors"].items())
    fmt::print("{:<56} {}\n", name, text.get<std::string>());
  if (found["tensors"].empty())
    fmt::print("all tensors are equal to the bit\n");
  else
    fmt::print("{} tensors differ\n", found["tensors"].size());
}

}  // namespace wuneng::trainer
