#include "trainer/checkpoint.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "common/check.h"
#include "common/file.h"
#include "common/hash.h"
#include "trainer/manifest.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* manifest_name = "manifest.json";
constexpr const char* tokenizer_name = "tokenizer.json";
constexpr const char* step_prefix = "step-";
constexpr std::size_t names_shown = 5;

std::string file_of(const std::string& part) { return part + ".safetensors"; }

// The step that a folder's name stands for, spelt as checkpoint_name() spells it.
std::optional<std::int64_t> step_of(const std::string& name) {
  if (!name.starts_with(step_prefix)) return std::nullopt;
  std::int64_t step = -1;
  const char* digits = name.data() + std::string_view(step_prefix).size();
  const auto [end, error] = std::from_chars(digits, name.data() + name.size(), step);
  if (error != std::errc() || step < 0 || checkpoint_name(step) != name) return std::nullopt;
  return step;
}

// Runs `work`; a failure of the file system, whose message names operation, path and reason, becomes an
// Error.
template <class Work>
auto on_disk(const Work& work) {
  try {
    return work();
  } catch (const fs::filesystem_error& error) {
    throw Error(error.what());
  }
}

bool has_manifest(const fs::path& folder) { return fs::exists(folder / manifest_name); }

// The folders named step-########, whatever is in them; by step.
std::map<std::int64_t, fs::path> step_folders(const fs::path& checkpoints) {
  std::map<std::int64_t, fs::path> folders;
  if (!fs::exists(checkpoints)) return folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
    if (const auto step = step_of(entry.path().filename().string()); step && entry.is_directory())
      folders[*step] = entry.path();
  return folders;
}

bool is_valid(const fs::path& folder) {
  try {
    const Checkpoint checkpoint(folder);
    return true;
  } catch (const UsageError&) {
    return false;
  }
}

// The manifest goes first, so that whatever an interruption leaves is no checkpoint.
void delete_checkpoint(const fs::path& folder) {
  if (fs::remove(folder / manifest_name)) sync_folder(folder);
  fs::remove_all(folder);
}

void delete_remains(const fs::path& checkpoints) {
  for (const auto& [step, folder] : step_folders(checkpoints))
    if (!has_manifest(folder)) delete_checkpoint(folder);
}

// Damaged checkpoints do not count, and go only with valid ones that are as old: somebody may want to look at
// them.
void keep_newest(const fs::path& checkpoints, std::int64_t keep) {
  if (keep == 0) return;
  const auto folders = step_folders(checkpoints);
  std::int64_t valid = 0;
  for (auto entry = folders.rbegin(); entry != folders.rend(); ++entry) {
    if (valid == keep)
      delete_checkpoint(entry->second);
    else if (is_valid(entry->second))
      ++valid;
  }
}

// Writes the tensors of one part and adds them and their file to the manifest.
void write_part(const fs::path& folder, const std::string& part, const NamedTensors& tensors,
                Manifest& manifest) {
  const fs::path path = folder / file_of(part);
  const auto entries = write_safetensors(path, tensors);
  std::uint64_t tensor_bytes = 0;
  for (const auto& [name, tensor] : tensors) {
    const TensorEntry& entry = entries.at(name);
    const at::Tensor dense = tensor.detach().contiguous();
    const std::uint64_t hash = hash_bytes(dense.const_data_ptr(), dense.nbytes());
    const std::vector<std::int64_t> origin(entry.shape.size(), 0);
    manifest.tensors.push_back(
        {part, name, entry, hash, {{file_of(part), entry.offset, origin, entry.shape, hash}}});
    tensor_bytes += entry.bytes;
  }
  const MappedFile written(path);
  const std::uint64_t head_bytes = written.bytes().size() - tensor_bytes;
  manifest.files[file_of(part)] = {written.bytes().size(), head_bytes,
                                   hash_bytes(written.bytes().data(), head_bytes)};
}

void write_tokenizer(const fs::path& folder, const std::string& text, Manifest& manifest) {
  OutputFile file(folder / tokenizer_name);
  file.write(text);
  file.sync_and_close();
  manifest.files[tokenizer_name] = {text.size(), text.size(), hash_text(text)};
}

void write_checkpoint(const fs::path& folder, const CheckpointInfo& info, const NamedTensors& model,
                      const NamedTensors& optimizer) {
  Manifest manifest;
  manifest.info = info;
  make_folder(folder);
  write_part(folder, "model", model, manifest);
  write_part(folder, "optimizer", optimizer, manifest);
  if (!info.tokenizer.empty()) write_tokenizer(folder, info.tokenizer, manifest);
  sync_folder(folder);
  write_file_atomically(folder / manifest_name, manifest_text(manifest));
  sync_folder(folder.parent_path());
}

// Runs `work`; a UsageError becomes one that says what to do about a damaged checkpoint.
template <class Work>
auto or_damaged(const fs::path& folder, const Work& work) {
  try {
    return work();
  } catch (const UsageError& error) {
    throw UsageError(
        fmt::format("{}\nthe checkpoint cannot be used; where it is damaged, delete {} to resume from the "
                    "one before it, or restore it from a copy",
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
                  const std::vector<Checkpoint::Row>& rows) {
  std::map<std::string, std::size_t> slices_in;
  for (const Checkpoint::Row& row : rows)
    for (const TensorSlice& slice : row.slices) {
      const auto file = files.find(slice.file);
      WN_REQUIRE(file != files.end(), "{}: tensor {}: lies in {}, which the manifest does not list",
                 (folder / manifest_name).string(), row.name, slice.file);
      const auto entry = file->second.entries().find(row.name);
      WN_REQUIRE(entry != file->second.entries().end(), "{}: tensor {}: is missing",
                 (folder / slice.file).string(), row.name);
      const TensorEntry& stored = entry->second;
      WN_REQUIRE(
          stored.offset == slice.offset && stored.shape == slice.shape && stored.dtype == row.entry.dtype,
          "{}: tensor {}: place, shape or dtype is not what the manifest says",
          (folder / slice.file).string(), row.name);
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

std::string describe(const std::vector<std::int64_t>& shape, at::ScalarType dtype) {
  return fmt::format("{} [{}]", c10::toString(dtype), fmt::join(shape, ", "));
}

// How the stored tensors of one part differ from those of the model that wants them; one line each.
std::vector<std::string> differences(const std::map<std::string, const Checkpoint::Row*>& stored,
                                     const std::vector<Checkpoint::Wanted>& wanted) {
  std::vector<std::string> lines;
  std::set<std::string> names;
  for (const auto& [name, shape, dtype, take] : wanted) {
    names.insert(name);
    const auto found = stored.find(name);
    const std::string ours = describe(shape, dtype);
    const std::string theirs = found == stored.end()
                                   ? "not there"
                                   : describe(found->second->entry.shape, found->second->entry.dtype);
    if (ours != theirs)
      lines.push_back(fmt::format("{}: {} in the checkpoint, {} in the model", name, theirs, ours));
  }
  for (const auto& [name, row] : stored)
    if (!names.contains(name))
      lines.push_back(fmt::format("{}: {} in the checkpoint, not in the model", name,
                                  describe(row->entry.shape, row->entry.dtype)));
  return lines;
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("{}{:08}", step_prefix, step); }

fs::path save_checkpoint(const fs::path& checkpoints, const CheckpointInfo& info, const NamedTensors& model,
                         const NamedTensors& optimizer, std::int64_t keep) {
  const fs::path folder = checkpoints / checkpoint_name(info.position.step);
  return on_disk([&] {
    delete_remains(checkpoints);
    if (!is_valid(folder)) {
      delete_checkpoint(folder);
      write_checkpoint(folder, info, model, optimizer);
    }
    keep_newest(checkpoints, keep);
    return folder;
  });
}

Checkpoint::Checkpoint(const fs::path& folder) : folder_(folder) {
  const fs::path path = folder / manifest_name;
  std::error_code error;  // none where the manifest is just not there
  WN_REQUIRE(fs::exists(path, error), "{}: is not a checkpoint: {} {}", folder.string(), manifest_name,
             error ? "cannot be read: " + error.message()
                   : "is missing (a save that was interrupted leaves such a folder)");
  or_damaged(folder, [&] {
    Manifest manifest = parse_manifest(read_text(path), path);
    for (const auto& [name, record] : manifest.files) {
      check_head(MappedFile(folder / name), record);
      if (name.ends_with(".safetensors")) files_.emplace(name, folder / name);
    }
    check_tables(folder, files_, manifest.tensors);
    info_ = std::move(manifest.info);
    rows_ = std::move(manifest.tensors);
    if (manifest.files.contains(tokenizer_name)) info_.tokenizer = read_text(folder / tokenizer_name);
  });
}

std::span<const std::byte> Checkpoint::checked_bytes(const Row& row, const TensorSlice& slice) const {
  const std::span<const std::byte> bytes = files_.at(slice.file).bytes(row.name);
  or_damaged(folder_, [&] {
    WN_REQUIRE(hash_bytes(bytes.data(), bytes.size()) == slice.hash,
               "{}: tensor {}: was changed after it was written (the hash does not fit)",
               (folder_ / slice.file).string(), row.name);
  });
  return bytes;
}

void Checkpoint::verify() const {
  for (const Row& row : rows_)
    for (const TensorSlice& slice : row.slices) checked_bytes(row, slice);
}

std::vector<Checkpoint::Wanted> Checkpoint::copied_into(const NamedTensors& tensors) {
  std::vector<Wanted> wanted;
  for (const auto& [name, tensor] : tensors)
    wanted.push_back({name, tensor.sizes().vec(), tensor.scalar_type(),
                      [to = tensor.detach()](const at::Tensor& whole) { to.copy_(whole); }});
  return wanted;
}

void Checkpoint::load(const std::string& part, const std::vector<Wanted>& wanted) const {
  const at::NoGradGuard no_grad;
  std::map<std::string, const Row*> stored;
  for (const Row& row : rows_)
    if (row.part == part) stored[row.name] = &row;
  std::vector<std::string> different = differences(stored, wanted);
  const std::size_t more = different.size() - std::min(different.size(), names_shown);
  different.resize(different.size() - more);
  if (more > 0) different.push_back(fmt::format("and {} more", more));
  WN_REQUIRE(different.empty(), "{}: this checkpoint is of another model; its {} tensors differ:\n  {}",
             folder_.string(), part, fmt::join(different, "\n  "));
  for (const Wanted& tensor : wanted) tensor.take(whole(*stored.at(tensor.name)));
}

// As it lies in the file, where it lies in one piece.
at::Tensor Checkpoint::whole(const Row& row) const {
  if (row.slices.size() == 1)
    return as_tensor(checked_bytes(row, row.slices[0]), row.entry.shape, row.entry.dtype);
  at::Tensor tensor = at::empty(row.entry.shape, row.entry.dtype);
  for (const TensorSlice& slice : row.slices) {
    at::Tensor target = tensor;
    for (std::size_t d = 0; d < slice.begin.size(); ++d)
      target = target.narrow(static_cast<std::int64_t>(d), slice.begin[d], slice.shape[d]);
    target.copy_(as_tensor(checked_bytes(row, slice), slice.shape, row.entry.dtype));
  }
  return tensor;
}

std::optional<fs::path> newest_checkpoint(const fs::path& checkpoints) {
  return on_disk([&]() -> std::optional<fs::path> {
    const auto folders = step_folders(checkpoints);
    const auto newest = std::find_if(folders.rbegin(), folders.rend(),
                                     [](const auto& entry) { return has_manifest(entry.second); });
    if (newest == folders.rend()) return std::nullopt;
    const Checkpoint opened(newest->second);
    return opened.folder();
  });
}

}  // namespace wuneng::trainer
