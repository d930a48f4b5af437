// manifest.json: what a checkpoint holds, and a seal that any changed byte breaks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/json.h"
#include "trainer/checkpoint/shard.h"

namespace wuneng::trainer {

// Where a run stands: everything that its next step depends on beside the tensors. Randomness needs no state
// of its own, since every draw is a pure function of seed and position.
struct Position {
  std::int64_t step = 0;     // updates made
  std::int64_t samples = 0;  // sequences consumed
  std::int64_t tokens = 0;   // real tokens trained on
};

struct CheckpointInfo {
  Position position;
  std::string config;  // resolved configuration, YAML
  // Of the training data. Says nothing while position.samples is 0, in a model that was imported: no data
  // was read, and any may follow.
  std::uint64_t data_hash = 0;
  std::string tokenizer;                  // JSON; empty when unknown; a file of its own
  std::optional<double> validation_loss;  // measured at this very step
  // For people and other programs, and never read back: epoch, schedule, optimizer, mesh, hash of the
  // configuration. Null where there was no run.
  std::string facts = "null";  // JSON
};

// A box of a tensor, stored in one file under entry_name().
struct TensorSlice {
  std::string file;
  std::uint64_t offset = 0;  // of its first byte, from the start of the file
  Box box;
  std::uint64_t hash = 0;  // XXH3 of its bytes
};

struct SavedTensor {
  std::string section, name;
  std::vector<std::int64_t> shape;
  at::ScalarType dtype;
  std::uint64_t bytes = 0;
  std::vector<TensorSlice> slices;  // these tile the tensor
};

// A file of the checkpoint. Its head is what no slice covers: the header of a safetensors file, the whole of
// any other.
struct FileRecord {
  std::uint64_t bytes = 0, head_bytes = 0;
  std::uint64_t head_hash = 0;  // XXH3
};

struct Manifest {
  CheckpointInfo info;
  std::map<std::string, FileRecord> files;
  std::vector<SavedTensor> tensors;

  // Adds the files and slices of another rank, which lists the same tensors in the same order.
  void add(Manifest other);
};

// JSON whose last field is the hash of all text before it.
std::string manifest_text(const Manifest& manifest);

// Throws UsageError, beginning with `place`, when the seal is broken, a field is missing, or the slices do
// not tile their tensor. With `Extent::part`, what one rank wrote, slices may leave gaps.
enum class Extent { all, part };
Manifest parse_manifest(std::string_view text, const std::string& place, Extent extent = Extent::all);

// Throws UsageError that names the first tensor whose slices do not tile it.
void check_tiling(const Manifest& manifest);

}  // namespace wuneng::trainer
