// The folder RUN/checkpoints: which checkpoints it holds, which of them stay, and how one is written into it.
// Whatever the moment of a kill, every folder in it is a whole checkpoint or has no manifest.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "trainer/checkpoint/manifest.h"
#include "trainer/checkpoint/shard.h"

namespace wuneng::trainer {

inline constexpr const char* manifest_name = "manifest.json";
inline constexpr const char* tokenizer_name = "tokenizer.json";

// "step-00001000".
std::string checkpoint_name(std::int64_t step);

// The checkpoints that are kept. All others go, except damaged ones that are newer than every valid one:
// somebody may want to look at them.
struct Retention {
  std::int64_t newest = 2;  // so many of the newest; 0: all
  std::int64_t every = 0;   // those whose step is a multiple of this; 0: none for that
  std::int64_t best = 0;    // so many of those with the lowest validation loss
};

// Those that have a manifest, the newest first. Folders without one are remains of interrupted saves.
std::vector<std::filesystem::path> checkpoints_in(const std::filesystem::path& checkpoints);

// The newest of them, opened once to check it: one whose manifest or files are damaged throws
// DamagedCheckpoint.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& checkpoints);

// The steps of a save; the failures of the file system throw Error.
//
// 1, one rank: removes what interrupted saves left, and what is not valid of the folder that is to be
// written. False where a valid checkpoint of that step lies there already: then nothing is to be done.
bool prepare_checkpoint(const std::filesystem::path& folder);
// 2, every rank: writes its shard into files of its own, synced. Returns their part of the manifest.
Manifest write_shard(const std::filesystem::path& folder, const Shard& shard, int rank, int ranks);
// 3, one rank: from here on it is a checkpoint. Checks that the files of the other ranks are to be seen.
void finish_checkpoint(const std::filesystem::path& folder, Manifest manifest);
// 4, one rank: deletes what need not be kept; a manifest goes before its files.
void apply_retention(const std::filesystem::path& checkpoints, const Retention& retention);

// All of it on one rank: the checkpoint of info.position.step. Returns its folder.
std::filesystem::path save_checkpoint(const std::filesystem::path& checkpoints, const CheckpointInfo& info,
                                      const Shard& shard, const Retention& retention);

}  // namespace wuneng::trainer
