// Checkpoints: RUN/checkpoints/step-00001000/ holds model.safetensors, optimizer.safetensors, tokenizer.json
// (where there is one) and manifest.json.
//
// The manifest is written last, after every file is synced: a folder without a valid manifest is not a
// checkpoint. It lists each tensor's global shape, dtype and slices (file, offset, extent, XXH3 hash), the
// position of the run, the resolved configuration and the versions. Tensors are stored whole, by global
// index, so the number of ranks may change between save and load.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/safetensors.h"

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
  // Of the training corpus. Says nothing while position.samples is 0, in a model that was imported: no data
  // was read, and any corpus may follow.
  std::uint64_t data_hash = 0;
  std::string tokenizer;  // JSON of the corpus' tokenizer; empty when unknown
};

// "step-00001000".
std::string checkpoint_name(std::int64_t step);

// Writes the checkpoint of info.position.step into `checkpoints`, then deletes all but the newest `keep`
// valid ones (0: keeps all). One that is there already, and valid, stays as it is; remains of interrupted
// saves are deleted. A failure (disk full ...) throws Error and leaves earlier checkpoints as they were.
// Returns the checkpoint's folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, const CheckpointInfo& info,
                                      const NamedTensors& model, const NamedTensors& optimizer,
                                      std::int64_t keep);

// A box of a tensor, stored in one file under the tensor's name.
struct TensorSlice {
  std::string file;
  std::uint64_t offset = 0;                // of its first byte, from the start of the file
  std::vector<std::int64_t> begin, shape;  // for every dimension of the tensor
  std::uint64_t hash = 0;                  // XXH3 of its bytes
};

// A checkpoint opened for reading. The constructor checks the manifest and the files it names (existence,
// size, tensor tables); reading a tensor checks its hash. Every error is a UsageError with file and tensor.
class Checkpoint {
 public:
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const CheckpointInfo& info() const { return info_; }
  // A tensor that is wanted, and what to do with it: `take` gets the whole, to copy what it needs from.
  struct Wanted {
    std::string name;
    std::vector<std::int64_t> shape;
    at::ScalarType dtype;
    std::function<void(const at::Tensor& whole)> take;
  };
  // Hands the stored tensors over, by name. Missing, extra, or tensors of another shape or dtype are refused
  // with names before the first one is.
  void load_model(const std::vector<Wanted>& wanted) const { load("model", wanted); }
  void load_optimizer(const std::vector<Wanted>& wanted) const { load("optimizer", wanted); }
  // The same into whole tensors.
  void load_model(const NamedTensors& into) const { load("model", copied_into(into)); }
  void load_optimizer(const NamedTensors& into) const { load("optimizer", copied_into(into)); }
  // Checks every hash; throws UsageError for the first tensor or file that fails.
  void verify() const;
  // Every tensor, in the order of the files; "model" tensors first.
  struct Row {
    std::string part, name;
    TensorEntry entry;                // of the whole tensor; its offset is that of the first slice
    std::uint64_t hash = 0;           // of its bytes; where there are several slices, of their hashes
    std::vector<TensorSlice> slices;  // these tile the tensor
  };
  const std::vector<Row>& tensors() const { return rows_; }

 private:
  static std::vector<Wanted> copied_into(const NamedTensors& tensors);
  void load(const std::string& part, const std::vector<Wanted>& wanted) const;
  at::Tensor whole(const Row& row) const;
  std::span<const std::byte> checked_bytes(const Row& row, const TensorSlice& slice) const;

  std::filesystem::path folder_;
  CheckpointInfo info_;
  std::vector<Row> rows_;
  std::map<std::string, SafetensorsFile> files_;
};

// The checkpoint folder to resume from: the one of the highest step that has a manifest; none when there is
// no such folder. Folders without a manifest are remains of interrupted saves and are skipped. One whose
// manifest or files are damaged throws UsageError that names it and the remedy (delete it to resume from the
// one before).
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints);

}  // namespace wuneng::trainer
