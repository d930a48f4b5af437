#include "trainer/checkpoint/checkpoint.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <set>

#include "common/file.h"
#include "common/hash.h"
#include "trainer/checkpoint/folder.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t names_shown = 5;

// Runs `work`; a UsageError becomes one that says what to do about a damaged checkpoint.
template <class Work>
void or_damaged(const fs::path& folder, const Work& work) {
  try {
    work();
  } catch (const UsageError& error) {
    throw DamagedCheckpoint(
        fmt::format("{}\nthe checkpoint cannot be used; where it is damaged, delete {} to resume from the "
                    "one before it (or set trainer.checkpoint.fall_back), or restore it from a copy",
                    error.what(), folder.string()));
  }
}

void check_head(const MappedFile& file, const FileRecord& record) {
  const std::string path = file.path().string();
  WN_REQUIRE(file.bytes().size() == record.bytes, "{}: has {} bytes, but had {} when it was written", path,
             file.bytes().size(), record.bytes);
  WN_REQUIRE(record.head_bytes <= record.bytes &&
                 hash_bytes(file.bytes().data(), record.head_bytes) == record.head_hash,
             "{}: its {} was changed after it was written (the hash does not fit)", path,
             record.head_bytes == record.bytes ? "text" : "header");
}

// Every slice must be where the table of its file says, and the tables must list nothing else.
void check_tables(const fs::path& folder, const std::map<std::string, SafetensorsFile>& files,
                  const std::vector<SavedTensor>& tensors) {
  std::map<std::string, std::size_t> slices_in;
  for (const SavedTensor& tensor : tensors)
    for (const TensorSlice& slice : tensor.slices) {
      const auto file = files.find(slice.file);
      WN_REQUIRE(file != files.end(), "{}: tensor {}: lies in {}, which the manifest does not list",
                 (folder / manifest_name).string(), tensor.name, slice.file);
      const std::string place = fmt::format("{}: tensor {}", (folder / slice.file).string(), tensor.name);
      const auto& entries = file->second.entries();
      const auto entry = entries.find(entry_name(tensor.name, tensor.shape, slice.box));
      WN_REQUIRE(entry != entries.end(), "{}: is missing", place);
      const TensorEntry& stored = entry->second;
      WN_REQUIRE(
          stored.offset == slice.offset && stored.shape == slice.box.shape && stored.dtype == tensor.dtype,
          "{}: place, shape or dtype is not what the manifest says", place);
      ++slices_in[slice.file];
    }
  for (const auto& [name, file] : files)
    WN_REQUIRE(slices_in[name] == file.entries().size(), "{}: holds {} tensors, but the manifest lists {}",
               (folder / name).string(), file.entries().size(), slices_in[name]);
}

// A view of bytes that outlive it; a copy where they do not lie as the dtype needs.
at::Tensor as_tensor(std::span<const std::byte> bytes, const std::vector<std::int64_t>& shape,
                     at::ScalarType dtype) {
  auto* data = const_cast<std::byte*>(bytes.data());
  if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(dtype) == 0)
    return at::from_blob(data, shape, dtype);
  return at::from_blob(data, {static_cast<std::int64_t>(bytes.size())}, at::kByte)
      .clone()
      .view(dtype)
      .view(shape);
}

// Whether its bytes are those of the file, one after the other.
bool lies_as(const at::Tensor& target, at::ScalarType dtype) {
  return target.is_cpu() && target.scalar_type() == dtype && target.is_contiguous();
}

std::string describe(const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
  return fmt::format("{} [{}]", c10::toString(dtype), fmt::join(shape, ", "));
}

using ByName = std::map<std::string, const SavedTensor*>;

ByName section_of(const std::vector<SavedTensor>& tensors, const std::string& section) {
  ByName found;
  for (const SavedTensor& tensor : tensors)
    if (tensor.section == section) found[tensor.name] = &tensor;
  return found;
}

// How the stored tensors of a section differ from those that are wanted; one line each.
std::vector<std::string> differences(const ByName& stored, const std::string& section, const Shard& wanted) {
  std::vector<std::string> lines;
  std::set<std::string> names;
  for (const TensorPieces& tensor : wanted) {
    if (tensor.section != section) continue;
    names.insert(tensor.name);
    const auto found = stored.find(tensor.name);
    const std::string ours = describe(tensor.shape, tensor.dtype);
    const std::string theirs =
        found == stored.end() ? "not there" : describe(found->second->shape, found->second->dtype);
    if (ours != theirs)
      lines.push_back(fmt::format("{}: {} in the checkpoint, {} in the model", tensor.name, theirs, ours));
  }
  for (const auto& [name, tensor] : stored)
    if (!names.contains(name))
      lines.push_back(fmt::format("{}: {} in the checkpoint, not in the model", name,
                                  describe(tensor->shape, tensor->dtype)));
  return lines;
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  const fs::path path = folder / manifest_name;
  std::error_code error;  // none where the manifest is just not there
  WN_REQUIRE(fs::exists(path, error), "{}: is not a checkpoint: {} {}", folder.string(), manifest_name,
             error ? "cannot be read: " + error.message()
                   : "is missing (a save that was interrupted leaves such a folder)");
  or_damaged(folder, [&] {
    manifest_ = parse_manifest(read_text(path), path.string());
    for (const auto& [name, record] : manifest_.files) {
      check_head(MappedFile(folder / name), record);
      if (name.ends_with(".safetensors")) files_.emplace(name, folder / name);
    }
    check_tables(folder, files_, manifest_.tensors);
    if (manifest_.files.contains(tokenizer_name))
      manifest_.info.tokenizer = read_text(folder / tokenizer_name);
  });
}

std::span<const std::byte> Checkpoint::bytes(const SavedTensor& tensor, const TensorSlice& slice) const {
  return files_.at(slice.file).bytes(entry_name(tensor.name, tensor.shape, slice.box));
}

void Checkpoint::check_hash(const SavedTensor& tensor, const TensorSlice& slice) const {
  const std::span<const std::byte> stored = bytes(tensor, slice);
  read_ahead(stored);
  require_hash(tensor, slice, hash_bytes(stored.data(), stored.size()));
}

void Checkpoint::require_hash(const SavedTensor& tensor, const TensorSlice& slice,
                              std::uint64_t found) const {
  or_damaged(folder_, [&] {
    WN_REQUIRE(found == slice.hash, "{}: tensor {}: was changed after it was written (the hash does not fit)",
               (folder_ / slice.file).string(), tensor.name);
  });
}

void Checkpoint::verify(int reader, int readers) const {
  std::vector<std::pair<const SavedTensor*, const TensorSlice*>> mine;
  std::int64_t number = 0;
  for (const SavedTensor& tensor : manifest_.tensors)
    for (const TensorSlice& slice : tensor.slices)
      if (number++ % readers == reader) mine.emplace_back(&tensor, &slice);
  at::parallel_for(0, std::ssize(mine), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) check_hash(*mine[i].first, *mine[i].second);
  });
}

void Checkpoint::check_same_tensors(const std::string& section, const Shard& wanted) const {
  std::vector<std::string> different = differences(section_of(manifest_.tensors, section), section, wanted);
  const std::size_t more = different.size() - std::min(different.size(), names_shown);
  different.resize(different.size() - more);
  if (more > 0) different.push_back(fmt::format("and {} more", more));
  WN_REQUIRE(different.empty(), "{}: this checkpoint is of another model; its {} tensors differ:\n  {}",
             folder_.string(), section, fmt::join(different, "\n  "));
}

void Checkpoint::load(const Shard& wanted, Hashes hashes) const {
  std::set<std::string> sections;
  for (const TensorPieces& tensor : wanted) sections.insert(tensor.section);
  for (const std::string& section : sections) check_same_tensors(section, wanted);
  load_some(wanted, hashes);
}

void Checkpoint::load_some(const Shard& wanted, Hashes hashes) const {
  std::map<std::string, ByName> stored;
  for (const SavedTensor& tensor : manifest_.tensors) stored[tensor.section][tensor.name] = &tensor;
  std::vector<std::pair<const Piece*, const SavedTensor*>> fills;
  for (const TensorPieces& tensor : wanted)
    for (const Piece& piece : tensor.pieces)
      fills.emplace_back(&piece, stored.at(tensor.section).at(tensor.name));
  at::parallel_for(0, std::ssize(fills), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) fill(*fills[i].first, *fills[i].second, hashes);
  });
}

void Checkpoint::fill(const Piece& piece, const SavedTensor& tensor, Hashes hashes) const {
  const at::NoGradGuard no_grad;
  for (const TensorSlice& slice : tensor.slices) {
    const Box shared = intersection(slice.box, piece.box());
    if (shared.numel() == 0) continue;
    const at::Tensor target = view_of(piece.data, piece.box(), shared);
    if (shared == slice.box && lies_as(target, tensor.dtype)) {
      const std::string name = entry_name(tensor.name, tensor.shape, slice.box);
      const std::uint64_t hash = files_.at(slice.file).copy(name, target.mutable_data_ptr());
      if (hashes == Hashes::check) require_hash(tensor, slice, hash);
      continue;
    }
    if (hashes == Hashes::check) check_hash(tensor, slice);
    const at::Tensor source = as_tensor(bytes(tensor, slice), slice.box.shape, tensor.dtype);
    target.copy_(view_of(source, slice.box, shared));
  }
}

at::Tensor Checkpoint::read(const SavedTensor& tensor) const {
  const at::Tensor whole = at::empty(tensor.shape, tensor.dtype);
  fill({std::vector<std::int64_t>(tensor.shape.size(), 0), whole}, tensor, Hashes::check);
  return whole;
}

}  // namespace wuneng::trainer
