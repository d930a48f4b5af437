#include "trainer/checkpoint.h"

#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "common/json.h"
#include "tests/trainer/checkpoint_support.h"
#include "trainer/manifest.h"

namespace wuneng::trainer {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Optional;
using tests::message_of;
using tests::Scratch;

TEST(Checkpoint, NamesSortBySteps) {
  EXPECT_EQ(checkpoint_name(0), "step-00000000");
  EXPECT_EQ(checkpoint_name(1000), "step-00001000");
  EXPECT_EQ(checkpoint_name(123456789), "step-123456789");
}

TEST(Checkpoint, EverythingComesBack) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 1000);
  EXPECT_EQ(folder, scratch / "step-00001000");
  EXPECT_THAT(names_in(folder),
              ElementsAre("manifest.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json"));
  expect_intact(folder);
  const Checkpoint checkpoint(folder);
  EXPECT_EQ(checkpoint.info().position.step, 1000);
  EXPECT_EQ(checkpoint.info().position.samples, 16000);
  EXPECT_EQ(checkpoint.info().position.tokens, 1000007);
  EXPECT_EQ(checkpoint.info().config, info_at(1000).config);
  EXPECT_EQ(checkpoint.info().data_hash, 0xfedcba9876543210);
  EXPECT_EQ(checkpoint.info().tokenizer, info_at(1000).tokenizer);
}

TEST(Checkpoint, WithoutATokenizerThereIsNoFile) {
  const Scratch scratch;
  CheckpointInfo info = info_at(1);
  info.tokenizer = "";
  const fs::path folder = save_checkpoint(scratch.path(), info, model_at(1), {}, 0);
  EXPECT_FALSE(fs::exists(folder / "tokenizer.json"));
  EXPECT_EQ(Checkpoint(folder).info().tokenizer, "");
  Checkpoint(folder).load_optimizer(NamedTensors{});
}

TEST(Checkpoint, ListsItsTensorsInOrder) {
  const Scratch scratch;
  const Checkpoint checkpoint(save(scratch.path(), 3));
  NamedTensors all = model_at(3);
  for (const auto& named : optimizer_at(3)) all.push_back(named);
  ASSERT_EQ(checkpoint.tensors().size(), all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const Checkpoint::Row& row = checkpoint.tensors()[i];
    const at::Tensor dense = all[i].second.contiguous();
    EXPECT_EQ(row.part, i < 4 ? "model" : "optimizer");
    EXPECT_EQ(row.name, all[i].first);
    EXPECT_EQ(row.entry.shape, dense.sizes().vec());
    EXPECT_EQ(row.entry.dtype, dense.scalar_type());
    EXPECT_EQ(row.entry.bytes, dense.nbytes());
    EXPECT_EQ(row.hash, XXH3_64bits(dense.const_data_ptr(), dense.nbytes()));
  }
}

TEST(Checkpoint, OtherProgramsCanReadTheManifest) {
  const Scratch scratch;
  const std::string text = read_text(save(scratch.path(), 1) / "manifest.json");
  const Json json = Json::parse(text);
  EXPECT_EQ(json["format"], "wuneng-checkpoint");
  EXPECT_EQ(json["format_version"], 1);
  EXPECT_EQ(json["position"]["samples"], 16);
  EXPECT_EQ(json["data_hash"], "fedcba9876543210");
  EXPECT_EQ(json["tensors"][1]["shape"], Json({3, 2}));
  EXPECT_EQ(json["tensors"][1]["slices"][0]["file"], "model.safetensors");
  EXPECT_TRUE(json["versions"].contains("libtorch"));
  const std::size_t field = text.rfind(",\n \"manifest_hash\": ");
  EXPECT_EQ(json["manifest_hash"], fmt::format("{:016x}", XXH3_64bits(text.data(), field)));
}

TEST(Checkpoint, LoadingFillsTensorsOfAnyLayoutAndTheirViews) {
  const Scratch scratch;
  const Checkpoint checkpoint(save(scratch.path(), 2));
  const at::Tensor storage = at::zeros({6, 8});
  NamedTensors into = zeros_of(model_at(2));
  into[0].second = storage.slice(0, 1, 5).slice(1, 0, 6, 2);
  into[1].second = at::zeros({3, 2}).requires_grad_();
  checkpoint.load_model(into);
  expect_same(into, model_at(2));
  EXPECT_TRUE(at::equal(storage.sum(), model_at(2)[0].second.sum())) << "nothing around the view was touched";
}

TEST(Checkpoint, AnotherModelIsRefusedWithTheTensorsThatDiffer) {
  const Scratch scratch;
  const Checkpoint checkpoint(save(scratch.path(), 1));
  const auto refused = [&](const std::function<void(NamedTensors&)>& change) {
    NamedTensors into = zeros_of(model_at(1));
    change(into);
    const std::string message = message_of<UsageError>([&] { checkpoint.load_model(into); });
    EXPECT_THAT(message,
                HasSubstr("step-00000001: this checkpoint is of another model; its model tensors differ:\n"));
    for (const auto& [name, tensor] : into)
      EXPECT_EQ(tensor.to(at::kDouble).abs().sum().item<double>(), 0.0) << "nothing was loaded";
    return message;
  };
  EXPECT_THAT(refused([](auto& into) {
                into[0].second = at::zeros({3, 4});
              }),
              HasSubstr("embedding.weight: Float [4, 3] in the checkpoint, Float [3, 4] in the model"));
  EXPECT_THAT(refused([](auto& into) {
                into[0].second = at::zeros({4, 3}, at::kDouble);
              }),
              HasSubstr("embedding.weight: Float [4, 3] in the checkpoint, Double [4, 3] in the model"));
  EXPECT_THAT(refused([](auto& into) { into.pop_back(); }),
              HasSubstr("layers.0.scale: BFloat16 [] in the checkpoint, not in the model"));
  EXPECT_THAT(refused([](auto& into) { into.emplace_back("new", at::zeros({1})); }),
              HasSubstr("new: not there in the checkpoint, Float [1] in the model"));
  const std::string many = refused([](auto& into) {
    for (int i = 0; i < 7; ++i) into.emplace_back(fmt::format("new.{}", i), at::zeros({1}));
  });
  EXPECT_THAT(many, AllOf(HasSubstr("new.4:"), Not(HasSubstr("new.5:")), HasSubstr("and 2 more")));
}

TEST(Checkpoint, SavingAStepAgainLeavesItUntouched) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 5);
  const auto before = fs::last_write_time(folder / "manifest.json");
  EXPECT_EQ(save_checkpoint(scratch.path(), info_at(5), model_at(6), optimizer_at(6), 0), folder);
  EXPECT_EQ(fs::last_write_time(folder / "manifest.json"), before);
  expect_intact(folder);
}

TEST(Checkpoint, SavingADamagedStepAgainRepairsIt) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 5);
  put(folder / "manifest.json", "{}");
  put(folder / "stranger", "x");
  save(scratch.path(), 5);
  expect_intact(folder);
  EXPECT_FALSE(fs::exists(folder / "stranger"));
}

TEST(Checkpoint, TheNewestIsTheOneOfTheHighestStep) {
  const Scratch scratch;
  EXPECT_EQ(newest_checkpoint(scratch / "none"), std::nullopt);
  EXPECT_EQ(newest_checkpoint(scratch.path()), std::nullopt);
  for (const std::int64_t step : {100000000, 5, 99999999}) save(scratch.path(), step);
  for (const char* stranger :
       {"step-00000007x", "step-300000000 (copy)", "step-", "step--0000001", "step-0999999999", "best"})
    fs::copy(scratch / "step-00000005", scratch / stranger);
  put(scratch / "step-900000000", "a file");
  fs::create_directory(scratch / "step-800000000");  // no manifest
  EXPECT_THAT(newest_checkpoint(scratch.path()), Optional(scratch / "step-100000000"));
}

TEST(Checkpoint, AFolderWithoutManifestIsNoCheckpoint) {
  const Scratch scratch;
  const fs::path folder = save(scratch.path(), 5);
  fs::remove(folder / "manifest.json");
  EXPECT_EQ(newest_checkpoint(scratch.path()), std::nullopt);
  EXPECT_THAT(refusal(folder), HasSubstr("step-00000005: is not a checkpoint: manifest.json is missing"));
  EXPECT_THAT(refusal(scratch / "none"), HasSubstr("none: is not a checkpoint"));
}

TEST(Checkpoint, RetentionKeepsTheNewestAndLeavesStrangersAlone) {
  const Scratch scratch;
  for (const std::int64_t step : {1, 2, 3}) save(scratch.path(), step, 0);
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("step-00000001", "step-00000002", "step-00000003"));
  for (const char* stranger : {"best", "step-1", "step-00000001.old"})
    fs::copy(scratch / "step-00000001", scratch / stranger);
  put(scratch / "step-00000000", "a file");
  save(scratch.path(), 4, 2);
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("best", "step-00000000", "step-00000001.old",
                                                    "step-00000003", "step-00000004", "step-1"));
  save(scratch.path(), 4, 1);
  EXPECT_THAT(names_in(scratch.path()),
              ElementsAre("best", "step-00000000", "step-00000001.old", "step-00000004", "step-1"));
  expect_intact(scratch / "step-00000004");
}

TEST(Checkpoint, RetentionCountsValidOnesOnly) {
  const Scratch scratch;
  for (const std::int64_t step : {1, 2, 3, 4, 5}) save(scratch.path(), step);
  put(scratch / "step-00000002" / "manifest.json", "{}");
  put(scratch / "step-00000004" / "manifest.json", "{}");
  fs::remove(scratch / "step-00000005" / "manifest.json");
  save(scratch.path(), 6, 2);
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("step-00000003", "step-00000004", "step-00000006"));
}

TEST(Checkpoint, RemainsOfInterruptedSavesAreRemoved) {
  const Scratch scratch;
  for (const char* name : {"step-00000003", "step-00000009"}) {
    fs::create_directory(scratch / name);
    put(scratch / name / "model.safetensors", "part of it");
    put(scratch / name / "manifest.json.partial", "{");
  }
  save(scratch.path(), 3);
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("step-00000003"));
  EXPECT_THAT(names_in(scratch / "step-00000003"),
              ElementsAre("manifest.json", "model.safetensors", "optimizer.safetensors", "tokenizer.json"));
}

// A checkpoint of one tensor [4, 6] in three files: the left half, and the right half cut after its first
// row.
class Sliced {
 public:
  Sliced() {
    add("a", {0, 0}, {4, 3});
    add("b", {0, 3}, {1, 3});
    add("c", {1, 3}, {3, 3});
    Checkpoint::Row& row = manifest_.tensors.emplace_back();
    row.part = "model";
    row.name = "x";
    row.entry = {at::kFloat, {4, 6}, 0, 96};
    row.slices = slices_;
  }
  const at::Tensor& whole() const { return whole_; }
  std::vector<TensorSlice>& slices() { return manifest_.tensors[0].slices; }
  Manifest& manifest() { return manifest_; }
  const fs::path& folder() const { return scratch_.path(); }
  void write() { put(folder() / "manifest.json", manifest_text(manifest_)); }
  std::string refused() {
    write();
    return refusal(folder());
  }

 private:
  void add(const std::string& name, std::vector<std::int64_t> begin, std::vector<std::int64_t> shape) {
    const std::string file = name + ".safetensors";
    const at::Tensor part = whole_.narrow(0, begin[0], shape[0]).narrow(1, begin[1], shape[1]).contiguous();
    const TensorEntry entry = write_safetensors(folder() / file, {{"x", part}}).at("x");
    const std::string text = read_text(folder() / file);
    manifest_.files[file] = {text.size(), entry.offset, XXH3_64bits(text.data(), entry.offset)};
    slices_.push_back({file, entry.offset, begin, shape, XXH3_64bits(part.const_data_ptr(), part.nbytes())});
  }

  Scratch scratch_;
  at::Tensor whole_ = at::arange(24, at::kFloat).view({4, 6});
  Manifest manifest_;
  std::vector<TensorSlice> slices_;
};

TEST(Checkpoint, SlicesAreAssembled) {
  Sliced sliced;
  sliced.write();
  const Checkpoint checkpoint(sliced.folder());
  checkpoint.verify();
  const at::Tensor x = at::zeros({4, 6});
  checkpoint.load_model({{"x", x}});
  EXPECT_TRUE(at::equal(x, sliced.whole()));
  const at::Tensor view = at::zeros({6, 4}).t();
  checkpoint.load_model({{"x", view}});
  EXPECT_TRUE(at::equal(view, sliced.whole()));
}

TEST(Checkpoint, SlicesThatDoNotTileTheirTensorAreRefused) {
  const auto refused = [](const std::function<void(Sliced&)>& change) {
    Sliced sliced;
    change(sliced);
    return sliced.refused();
  };
  EXPECT_THAT(refused([](Sliced& s) { s.slices().pop_back(); }),
              HasSubstr("manifest.json: tensor x: its slices leave a gap: 60 of 96 bytes"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices().clear(); }), HasSubstr("leave a gap: 0 of 96"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[2].begin[0] = 0; }), HasSubstr("slices 1 and 2 overlap"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[2].begin[1] = 2; }), HasSubstr("slices 0 and 2 overlap"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[2].begin[0] = 2; }),
              HasSubstr("slice 2 reaches out of the tensor"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[0].begin = {0}; }), HasSubstr("slice 0 reaches out"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].begin[0] = -1; }), HasSubstr("slice 1 reaches out"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].shape[1] = INT64_MAX; }),
              HasSubstr("slice 1 reaches out"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].file = s.slices()[0].file; }),
              HasSubstr("a.safetensors holds two of its slices"));
}

TEST(Checkpoint, AManifestThatItsFilesContradictIsRefused) {
  const auto refused = [](const std::function<void(Sliced&)>& change) {
    Sliced sliced;
    change(sliced);
    return sliced.refused();
  };
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].offset += 4; }),
              HasSubstr("b.safetensors: tensor x: place, shape or dtype is not what"));
  EXPECT_THAT(refused([](Sliced& s) { s.manifest().tensors[0].entry.dtype = at::kInt; }),
              HasSubstr("place, shape or dtype"));
  EXPECT_THAT(refused([](Sliced& s) { s.manifest().tensors[0].name.front() = 'y'; }),
              HasSubstr("a.safetensors: tensor y: is missing"));
  EXPECT_THAT(refused([](Sliced& s) { s.manifest().files.erase("b.safetensors"); }),
              HasSubstr("which the manifest does not list"));
  EXPECT_THAT(refused([](Sliced& s) { s.manifest().tensors.clear(); }),
              HasSubstr("holds 1 tensors, but the manifest lists 0"));
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].hash ^= 1; }),
              HasSubstr("b.safetensors: tensor x: was changed"));
}

TEST(Checkpoint, ANewerFormatIsRefused) {
  Sliced sliced;
  std::string text = manifest_text(sliced.manifest());
  text.replace(text.find("\"format_version\": 1"), 19, "\"format_version\": 2");
  const std::size_t field = text.rfind(",\n \"manifest_hash\"");
  text = text.substr(0, field) +
         fmt::format(",\n \"manifest_hash\": \"{:016x}\"\n}}\n", XXH3_64bits(text.data(), field));
  put(sliced.folder() / "manifest.json", text);
  EXPECT_THAT(refusal(sliced.folder()), HasSubstr("format_version 2: this program reads version 1"));
}

}  // namespace
}  // namespace wuneng::trainer
