// The safetensors file format: u64 little-endian length of a JSON header, the header {name: {dtype, shape,
// data_offsets}}, raw bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/file.h"

namespace wuneng::trainer {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

// Where one tensor lies in a file.
struct TensorEntry {
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;  // of its first byte, from the start of the file
  std::uint64_t bytes = 0;
};

// The format's names of dtypes ("F32"), for those that this program reads and writes.
std::optional<std::string_view> dtype_name(at::ScalarType dtype);
std::optional<at::ScalarType> dtype_named(std::string_view name);

// The size of a tensor; none where a dimension is negative or the product exceeds 2^63 - 1.
std::optional<std::uint64_t> byte_count(at::ScalarType dtype, const std::vector<std::int64_t>& shape);

// A file as it was written.
struct WrittenSafetensors {
  std::map<std::string, TensorEntry> entries;
  std::map<std::string, std::uint64_t> hashes;  // XXH3 of each tensor's bytes
  std::uint64_t bytes = 0, header_bytes = 0;    // the header with its length
  std::uint64_t header_hash = 0;
};

// Writes the tensors (CPU, any stride; float32, float64, bfloat16, float16, int64, int32, uint8, bool) in the
// given order, and fsyncs. `metadata` becomes "__metadata__". Throws Error when the disk fails.
WrittenSafetensors write_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                                     const std::map<std::string, std::string>& metadata = {});

// A file mapped for reading. The constructor checks header length, JSON, dtypes, shapes, overlap, holes and
// bounds, and throws UsageError that names file and tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::map<std::string, TensorEntry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  at::Tensor read(const std::string& name) const;  // a copy of its own
  // Copies the bytes of one tensor and gives their XXH3, by reading them once and not through the mapping.
  std::uint64_t copy(const std::string& name, void* target) const;
  // The raw bytes of one tensor, valid as long as this object.
  std::span<const std::byte> bytes(const std::string& name) const;

 private:
  const TensorEntry& entry(const std::string& name) const;

  MappedFile file_;
  std::map<std::string, TensorEntry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace wuneng::trainer
