// Checkpoints whose contents follow from their step.
#pragma once

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "common/check.h"
#include "tests/support/scratch.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/folder.h"

namespace wuneng::trainer {

// Tensors that tell their step, of several dtypes and layouts.
inline NamedTensors model_at(std::int64_t step) {
  const auto value = static_cast<double>(step);
  return {{"embedding.weight", at::arange(12, at::kFloat).add(value).view({4, 3})},
          {"layers.0.weight", at::arange(6, at::kFloat).mul(value).view({2, 3}).t()},
          {"layers.0.flag", at::full({3}, step % 2 == 1, at::kBool)},
          {"layers.0.scale", at::full({}, value, at::kBFloat16)}};
}

inline NamedTensors optimizer_at(std::int64_t step) {
  return {{"embedding.weight.moment", at::full({16, 6}, 0.5 * static_cast<double>(step), at::kDouble)},
          {"nothing", at::empty({0, 3}, at::kFloat)},
          {"updates", at::full({1}, step, at::kLong)}};
}

inline CheckpointInfo info_at(std::int64_t step) {
  return {{step, step * 16, step * 1000 + 7},
          "seed: 1\nname: \"ä\"\n",
          0xfedcba9876543210,
          "{\"kind\": \"bytes\"}",
          {},
          "{\"epoch\":3}"};
}

inline Shard model_and_optimizer(const NamedTensors& model, const NamedTensors& optimizer) {
  Shard shard = whole_tensors("model", model);
  const Shard more = whole_tensors("optimizer", optimizer);
  shard.insert(shard.end(), more.begin(), more.end());
  return shard;
}

inline Shard shard_at(std::int64_t step) { return model_and_optimizer(model_at(step), optimizer_at(step)); }

inline std::filesystem::path save(const std::filesystem::path& checkpoints, std::int64_t step,
                                  std::int64_t keep = 0) {
  return save_checkpoint(checkpoints, info_at(step), shard_at(step), {.newest = keep});
}

// The save of a job of two ranks, one after the other: one writes the model, the other the optimizer.
inline std::filesystem::path save_of_two_ranks(const std::filesystem::path& checkpoints, std::int64_t step,
                                               std::int64_t keep = 0) {
  const std::filesystem::path folder = checkpoints / checkpoint_name(step);
  if (prepare_checkpoint(folder)) {
    Shard first = shard_at(step), second = first;
    for (TensorPieces& tensor : first)
      if (tensor.section == "optimizer") tensor.pieces.clear();
    for (TensorPieces& tensor : second)
      if (tensor.section == "model") tensor.pieces.clear();
    Manifest manifest = write_shard(folder, first, 0, 2);
    manifest.add(write_shard(folder, second, 1, 2));
    manifest.info = info_at(step);
    finish_checkpoint(folder, std::move(manifest));
  }
  apply_retention(checkpoints, {.newest = keep});
  return folder;
}

inline void load_model(const Checkpoint& checkpoint, const NamedTensors& into) {
  checkpoint.load(whole_tensors("model", into));
}

inline void load_optimizer(const Checkpoint& checkpoint, const NamedTensors& into) {
  checkpoint.load(whole_tensors("optimizer", into));
}

inline NamedTensors zeros_of(const NamedTensors& tensors) {
  NamedTensors zeros;
  for (const auto& [name, tensor] : tensors) zeros.emplace_back(name, at::zeros_like(tensor));
  return zeros;
}

inline void expect_same(const NamedTensors& got, const NamedTensors& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(at::equal(got[i].second, expected[i].second)) << expected[i].first;
}

// The checkpoint holds what save() wrote at its step, to the bit.
inline void expect_intact(const std::filesystem::path& folder) {
  const Checkpoint checkpoint(folder);
  checkpoint.verify();
  const std::int64_t step = checkpoint.info().position.step;
  const NamedTensors model = zeros_of(model_at(step)), optimizer = zeros_of(optimizer_at(step));
  load_model(checkpoint, model);
  load_optimizer(checkpoint, optimizer);
  expect_same(model, model_at(step));
  expect_same(optimizer, optimizer_at(step));
}

inline std::set<std::string> names_in(const std::filesystem::path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    names.insert(entry.path().filename().string());
  return names;
}

// A new file each time: overwriting one makes some file systems wait for the disk.
inline void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  OutputFile(path).write(bytes);
}

// Opens, and reads every byte.
inline std::string refusal(const std::filesystem::path& folder) {
  return tests::message_of<UsageError>([&] { Checkpoint(folder).verify(); });
}

}  // namespace wuneng::trainer
