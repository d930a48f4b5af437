// A checkpoint opened for reading; README.md describes the folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "common/check.h"
#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/shard.h"
#include "trainer/safetensors.h"

namespace wuneng::trainer {

// The files of a checkpoint are not what was written. Says which, and what to do.
class DamagedCheckpoint : public UsageError {
 public:
  using UsageError::UsageError;
};

class Checkpoint {
 public:
  // Checks the manifest and the files that it names: existence, size, tensor tables. Throws UsageError when
  // there is no manifest, and DamagedCheckpoint that names file and tensor.
  explicit Checkpoint(const std::filesystem::path& folder);

  const std::filesystem::path& folder() const { return folder_; }
  const CheckpointInfo& info() const { return manifest_.info; }
  const std::vector<SavedTensor>& tensors() const { return manifest_.tensors; }

  // Checks the hash of every slice; of several readers that share the work, of every `readers`-th, from
  // `reader` on. Throws DamagedCheckpoint for the first that fails.
  void verify(int reader = 0, int readers = 1) const;

  // Fills the pieces, reading only the bytes that they need. The tensors of each section that `wanted` holds
  // must be those that are stored: others are refused with names before the first is read. Whoever has not
  // called verify() asks for `Hashes::check`: the hash of every slice that is read.
  enum class Hashes { check, trust };
  void load(const Shard& wanted, Hashes hashes = Hashes::check) const;

  // The same, whatever else is stored; what is wanted must be.
  void load_some(const Shard& wanted, Hashes hashes = Hashes::check) const;

  // All of one tensor.
  at::Tensor read(const SavedTensor& tensor) const;

 private:
  void check_same_tensors(const std::string& section, const Shard& wanted) const;
  std::span<const std::byte> bytes(const SavedTensor& tensor, const TensorSlice& slice) const;
  void check_hash(const SavedTensor& tensor, const TensorSlice& slice) const;
  void require_hash(const SavedTensor& tensor, const TensorSlice& slice, std::uint64_t found) const;
  void fill(const Piece& piece, const SavedTensor& tensor, Hashes hashes) const;

  std::filesystem::path folder_;
  Manifest manifest_;
  std::map<std::string, SafetensorsFile> files_;
};

}  // namespace wuneng::trainer
