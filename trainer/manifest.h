// The manifest of a checkpoint as text: what it says, and a seal that any changed byte breaks.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/checkpoint.h"

namespace wuneng::trainer {

// A file of the checkpoint. Its head is what no tensor slice covers: the header of a safetensors file, the
// whole of any other.
struct FileRecord {
  std::uint64_t bytes = 0, head_bytes = 0;
  std::uint64_t head_hash = 0;  // XXH3
};

struct Manifest {
  CheckpointInfo info;  // the tokenizer is a file of its own
  std::map<std::string, FileRecord> files;
  std::vector<Checkpoint::Row> tensors;
};

// JSON whose last field is the hash of all text before it.
std::string manifest_text(const Manifest& manifest);

// Throws UsageError, beginning with `path`, when the seal is broken, a field is missing, or the slices do not
// tile their tensor.
Manifest parse_manifest(std::string_view text, const std::filesystem::path& path);

}  // namespace wuneng::trainer
