#include "trainer/checkpoint/folder.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <set>

#include "common/check.h"
#include "common/file.h"
#include "common/hash.h"
#include "trainer/checkpoint/checkpoint.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;

constexpr const char* step_prefix = "step-";

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

// The folders named step-########, whatever is in them; by step. A link to one is somebody else's.
std::map<std::int64_t, fs::path> step_folders(const fs::path& checkpoints) {
  std::map<std::int64_t, fs::path> folders;
  if (!fs::exists(checkpoints)) return folders;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints))
    if (const auto step = step_of(entry.path().filename().string());
        step && entry.is_directory() && !entry.is_symlink())
      folders[*step] = entry.path();
  return folders;
}

// Opens it, which checks the manifest and the tables of its files, and on demand every byte.
enum class Depth { tables, bytes };
bool is_valid(const fs::path& folder, Depth depth = Depth::tables) {
  try {
    const Checkpoint checkpoint(folder);
    if (depth == Depth::bytes) checkpoint.verify();
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

std::optional<double> validation_loss(const fs::path& folder) {
  try {
    const fs::path file = folder / manifest_name;
    return parse_manifest(read_text(file), file.string()).info.validation_loss;
  } catch (const UsageError&) {
    return std::nullopt;
  }
}

// The steps of the checkpoints with the lowest losses; of equals the earliest.
std::set<std::int64_t> best_steps(const std::map<std::int64_t, fs::path>& folders, std::int64_t count) {
  std::vector<std::pair<double, std::int64_t>> losses;
  if (count > 0)
    for (const auto& [step, folder] : folders)
      if (const auto loss = validation_loss(folder)) losses.emplace_back(*loss, step);
  std::ranges::sort(losses);
  std::set<std::int64_t> best;
  for (const auto& [loss, step] : losses)
    if (std::ssize(best) < count) best.insert(step);
  return best;
}

std::string file_of(const std::string& section, int rank, int ranks) {
  return ranks == 1 ? fmt::format("{}.safetensors", section)
                    : fmt::format("{}-rank-{:05}.safetensors", section, rank);
}

// Writes the pieces of one section and adds them and their file to the manifest.
void write_section(const fs::path& folder, const std::string& section, const std::string& file,
                   const Shard& shard, Manifest& manifest) {
  NamedTensors entries;
  for (const TensorPieces& tensor : shard)
    if (tensor.section == section)
      for (const Piece& piece : tensor.pieces)
        entries.emplace_back(entry_name(tensor.name, tensor.shape, piece.box()), piece.data);
  const WrittenSafetensors written = write_safetensors(folder / file, entries);
  manifest.files[file] = {written.bytes, written.header_bytes, written.header_hash};
  for (const TensorPieces& tensor : shard) {
    if (tensor.section != section) continue;
    manifest.tensors.push_back({section,
                                tensor.name,
                                tensor.shape,
                                tensor.dtype,
                                byte_count(tensor.dtype, tensor.shape).value(),
                                {}});
    for (const Piece& piece : tensor.pieces) {
      const std::string key = entry_name(tensor.name, tensor.shape, piece.box());
      manifest.tensors.back().slices.push_back(
          {file, written.entries.at(key).offset, piece.box(), written.hashes.at(key)});
    }
  }
}

void write_tokenizer(const fs::path& folder, const std::string& text, Manifest& manifest) {
  OutputFile file(folder / tokenizer_name);
  file.write(text);
  file.sync_and_close();
  manifest.files[tokenizer_name] = {text.size(), text.size(), hash_text(text)};
}

}  // namespace

std::string checkpoint_name(std::int64_t step) { return fmt::format("{}{:08}", step_prefix, step); }

std::vector<fs::path> checkpoints_in(const fs::path& checkpoints) {
  return on_disk([&] {
    std::vector<fs::path> found;
    for (const auto& [step, folder] : step_folders(checkpoints))
      if (has_manifest(folder)) found.push_back(folder);
    std::ranges::reverse(found);
    return found;
  });
}

std::optional<fs::path> newest_checkpoint(const fs::path& checkpoints) {
  const std::vector<fs::path> found = checkpoints_in(checkpoints);
  if (found.empty()) return std::nullopt;
  return on_disk([&] { return Checkpoint(found[0]).folder(); });
}

bool prepare_checkpoint(const fs::path& folder) {
  return on_disk([&] {
    make_folder(folder.parent_path());
    WN_CHECK(!fs::is_symlink(folder), "{}: is a link, and no checkpoint is written through one; remove it",
             folder.string());
    for (const auto& [step, other] : step_folders(folder.parent_path()))
      if (!has_manifest(other)) delete_checkpoint(other);
    if (is_valid(folder, Depth::bytes)) return false;
    delete_checkpoint(folder);
    make_folder(folder);
    return true;
  });
}

Manifest write_shard(const fs::path& folder, const Shard& shard, int rank, int ranks) {
  return on_disk([&] {
    Manifest manifest;
    for (const char* section : {"model", "optimizer"})
      write_section(folder, section, file_of(section, rank, ranks), shard, manifest);
    return manifest;
  });
}

void finish_checkpoint(const fs::path& folder, Manifest manifest) {
  on_disk([&] {
    if (!manifest.info.tokenizer.empty()) write_tokenizer(folder, manifest.info.tokenizer, manifest);
    check_tiling(manifest);
    for (const auto& [name, record] : manifest.files) {
      std::error_code error;
      WN_CHECK(fs::file_size(folder / name, error) == record.bytes && !error,
               "{}: another rank wrote this file, and rank 0 does not see it: the run folder must lie on a "
               "file system that all hosts share",
               (folder / name).string());
    }
    sync_folder(folder);
    write_file_atomically(folder / manifest_name, manifest_text(manifest));
    sync_folder(folder.parent_path());
  });
}

void apply_retention(const fs::path& checkpoints, const Retention& retention) {
  if (retention.newest == 0) return;
  on_disk([&] {
    const auto folders = step_folders(checkpoints);
    const std::set<std::int64_t> best = best_steps(folders, retention.best);
    std::int64_t valid = 0;
    for (auto entry = folders.rbegin(); entry != folders.rend(); ++entry) {
      const auto& [step, folder] = *entry;
      if (valid < retention.newest) {
        if (is_valid(folder)) ++valid;
        continue;
      }
      const bool for_ever = retention.every > 0 && step % retention.every == 0;
      if (!for_ever && !best.contains(step)) delete_checkpoint(folder);
    }
  });
}

fs::path save_checkpoint(const fs::path& checkpoints, const CheckpointInfo& info, const Shard& shard,
                         const Retention& retention) {
  const fs::path folder = checkpoints / checkpoint_name(info.position.step);
  if (prepare_checkpoint(folder)) {
    Manifest manifest = write_shard(folder, shard, 0, 1);
    manifest.info = info;
    finish_checkpoint(folder, std::move(manifest));
  }
  apply_retention(checkpoints, retention);
  return folder;
}

}  // namespace wuneng::trainer
