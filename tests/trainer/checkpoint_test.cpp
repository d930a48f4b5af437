#include "trainer/checkpoint/checkpoint.h"

#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "common/json.h"
#include "tests/trainer/checkpoint_support.h"
#include "trainer/checkpoint/manifest.h"

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
  const fs::path folder = save_checkpoint(scratch.path(), info, whole_tensors("model", model_at(1)), {});
  EXPECT_FALSE(fs::exists(folder / "tokenizer.json"));
  EXPECT_EQ(Checkpoint(folder).info().tokenizer, "");
  EXPECT_EQ(Checkpoint(folder).tensors().size(), model_at(1).size());
}

TEST(Checkpoint, ListsItsTensorsInOrder) {
  const Scratch scratch;
  const Checkpoint checkpoint(save(scratch.path(), 3));
  NamedTensors all = model_at(3);
  for (const auto& named : optimizer_at(3)) all.push_back(named);
  ASSERT_EQ(checkpoint.tensors().size(), all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const SavedTensor& tensor = checkpoint.tensors()[i];
    const at::Tensor dense = all[i].second.contiguous();
    EXPECT_EQ(tensor.section, i < 4 ? "model" : "optimizer");
    EXPECT_EQ(tensor.name, all[i].first);
    EXPECT_EQ(tensor.shape, dense.sizes().vec());
    EXPECT_EQ(tensor.dtype, dense.scalar_type());
    EXPECT_EQ(tensor.bytes, dense.nbytes());
    ASSERT_EQ(tensor.slices.size(), 1u);
    EXPECT_EQ(tensor.slices[0].hash, XXH3_64bits(dense.const_data_ptr(), dense.nbytes()));
  }
}

TEST(Checkpoint, OtherProgramsCanReadTheManifest) {
  const Scratch scratch;
  const std::string text = read_text(save(scratch.path(), 1) / "manifest.json");
  const Json json = Json::parse(text);
  EXPECT_EQ(json["format"], "wuneng-checkpoint");
  EXPECT_EQ(json["format_version"], 2);
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
  load_model(checkpoint, into);
  expect_same(into, model_at(2));
  EXPECT_TRUE(at::equal(storage.sum(), model_at(2)[0].second.sum())) << "nothing around the view was touched";
}

TEST(Checkpoint, AnotherModelIsRefusedWithTheTensorsThatDiffer) {
  const Scratch scratch;
  const Checkpoint checkpoint(save(scratch.path(), 1));
  const auto refused = [&](const std::function<void(NamedTensors&)>& change) {
    NamedTensors into = zeros_of(model_at(1));
    change(into);
    const std::string message = message_of<UsageError>([&] { load_model(checkpoint, into); });
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
  EXPECT_EQ(save_checkpoint(scratch.path(), info_at(5), shard_at(6), {}), folder);
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
    manifest_.tensors.push_back({"model", "x", {4, 6}, at::kFloat, 96, slices_});
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
    const std::string key =
        fmt::format("x[{}:{},{}:{}]", begin[0], begin[0] + shape[0], begin[1], begin[1] + shape[1]);
    const std::uint64_t offset = write_safetensors(folder() / file, {{key, part}}).entries.at(key).offset;
    const std::string text = read_text(folder() / file);
    manifest_.files[file] = {text.size(), offset, XXH3_64bits(text.data(), offset)};
    slices_.push_back({file, offset, {begin, shape}, XXH3_64bits(part.const_data_ptr(), part.nbytes())});
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
  load_model(checkpoint, {{"x", x}});
  EXPECT_TRUE(at::equal(x, sliced.whole()));
  const at::Tensor view = at::zeros({6, 4}).t();
  load_model(checkpoint, {{"x", view}});
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
  const auto of = [](Sliced& s, int slice) -> Box& { return s.slices()[slice].box; };
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 2).begin[0] = 0; }),
              HasSubstr("the slices [0:1,3:6] and [0:3,3:6] overlap"));
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 2).begin[1] = 2; }),
              HasSubstr("the slices [0:4,0:3] and [1:4,2:5] overlap"));
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 2).begin[0] = 2; }),
              HasSubstr("a slice in c.safetensors reaches out of the tensor"));
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 0).begin = {0}; }),
              HasSubstr("a slice in a.safetensors reaches out"));
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 1).begin[0] = -1; }),
              HasSubstr("begin -1: is not a whole number"));
  EXPECT_THAT(refused([&](Sliced& s) { of(s, 1).shape[1] = INT64_MAX; }),
              HasSubstr("a slice in b.safetensors reaches out"));
}

TEST(Checkpoint, FilesOutsideOfTheFolderAreRefused) {
  for (const char* name : {"../a.safetensors", "/etc/passwd", "..", ""}) {
    Sliced sliced;
    sliced.manifest().files[name] = {};
    EXPECT_THAT(sliced.refused(),
                HasSubstr(fmt::format("file '{}': a file of a checkpoint lies in its folder", name)));
  }
}

TEST(Checkpoint, APieceIsFilledFromTheSlicesThatItMeets) {
  Sliced sliced;
  sliced.write();
  const Checkpoint checkpoint(sliced.folder());
  for (std::int64_t row = 0; row < 4; ++row)
    for (std::int64_t column = 0; column < 6; ++column)
      for (std::int64_t rows = 1; row + rows <= 4; ++rows)
        for (std::int64_t columns = 1; column + columns <= 6; ++columns) {
          const at::Tensor piece = at::zeros({rows, columns});
          checkpoint.load({{"model", "x", {4, 6}, at::kFloat, {{{row, column}, piece}}}});
          ASSERT_TRUE(at::equal(piece, sliced.whole().narrow(0, row, rows).narrow(1, column, columns)));
        }
}

TEST(Checkpoint, ReadersThatShareTheWorkCheckEveryHashOnce) {
  for (const int readers : {1, 2, 3, 5}) {
    Sliced sliced;
    sliced.slices()[1].hash ^= 1;
    sliced.write();
    const Checkpoint checkpoint(sliced.folder());
    int found = 0;
    for (int reader = 0; reader < readers; ++reader) try {
        checkpoint.verify(reader, readers);
      } catch (const DamagedCheckpoint&) {
        ++found;
      }
    EXPECT_EQ(found, 1) << readers;
  }
}

// Every range of a small tensor, put together again from its boxes by plain index arithmetic.
TEST(Boxes, OfARangeHoldItsElementsInOrder) {
  for (const std::vector<std::int64_t>& shape :
       std::vector<std::vector<std::int64_t>>{{}, {7}, {3, 4}, {4, 1}, {2, 3, 4}, {1, 2, 1, 3}}) {
    const at::Tensor numbers =
        at::arange(std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()),
                   at::kLong)
            .view(shape);
    for (std::int64_t begin = 0; begin <= numbers.numel(); ++begin)
      for (std::int64_t size = 0; begin + size <= numbers.numel(); ++size) {
        std::int64_t next = begin;
        const std::vector<Box> boxes = boxes_of_range(shape, begin, size);
        EXPECT_LE(boxes.size(), std::max<std::size_t>(1, 2 * shape.size() - 1));
        for (const Box& box : boxes) {
          const at::Tensor inside =
              view_of(numbers, {std::vector<std::int64_t>(shape.size(), 0), shape}, box).reshape({-1});
          for (std::int64_t i = 0; i < inside.numel(); ++i) ASSERT_EQ(inside[i].item<std::int64_t>(), next++);
        }
        ASSERT_EQ(next, begin + size);
      }
  }
}

TEST(Checkpoint, RetentionKeepsEveryNthAndTheBest) {
  const Scratch scratch;
  const std::map<std::int64_t, double> losses{{1, 3.0}, {2, 1.0}, {3, 2.0}, {5, 1.5}, {7, 4.0}};
  for (std::int64_t step = 1; step <= 9; ++step) {
    CheckpointInfo info = info_at(step);
    if (const auto loss = losses.find(step); loss != losses.end()) info.validation_loss = loss->second;
    save_checkpoint(scratch.path(), info, shard_at(step), {.newest = 2, .every = 4, .best = 2});
    EXPECT_EQ(Checkpoint(scratch / checkpoint_name(step)).info().validation_loss, info.validation_loss);
  }
  EXPECT_THAT(names_in(scratch.path()), ElementsAre("step-00000002", "step-00000004", "step-00000005",
                                                    "step-00000008", "step-00000009"));
}

TEST(Checkpoint, AManifestThatItsFilesContradictIsRefused) {
  const auto refused = [](const std::function<void(Sliced&)>& change) {
    Sliced sliced;
    change(sliced);
    return sliced.refused();
  };
  EXPECT_THAT(refused([](Sliced& s) { s.slices()[1].offset += 4; }),
              HasSubstr("b.safetensors: tensor x: place, shape or dtype is not what"));
  EXPECT_THAT(refused([](Sliced& s) { s.manifest().tensors[0].dtype = at::kInt; }),
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

// The complaint about a manifest in which `from` was written as `to`, with a seal that fits.
std::string refusal_of_rewritten(const std::string& from, const std::string& to) {
  Sliced sliced;
  std::string text = manifest_text(sliced.manifest());
  EXPECT_NE(text.find(from), std::string::npos) << from;
  text.replace(text.find(from), from.size(), to);
  const std::size_t field = text.rfind(",\n \"manifest_hash\"");
  text = text.substr(0, field) +
         fmt::format(",\n \"manifest_hash\": \"{:016x}\"\n}}\n", XXH3_64bits(text.data(), field));
  put(sliced.folder() / "manifest.json", text);
  return refusal(sliced.folder());
}

TEST(Checkpoint, ANewerFormatIsRefused) {
  EXPECT_THAT(refusal_of_rewritten("\"format_version\": 2", "\"format_version\": 3"),
              HasSubstr("format_version 3: this program reads version 2"));
}

TEST(Checkpoint, NumbersThatAreNoneOfAManifestAreRefused) {
  for (const std::string number : {"18446744073709551616", "-1", "2.5", "1e30", "\"1\"", "null"}) {
    const auto complaint =
        testing::ContainsRegex("manifest.json: .*is not a whole number from 0 to 2\\^63 - 1");
    for (const std::string key : {"offset", "bytes", "head_bytes", "step", "samples"})
      EXPECT_THAT(
          refusal_of_rewritten(fmt::format("\"{}\":", key), fmt::format("\"{}\":{},\"was\":", key, number)),
          complaint)
          << key << " " << number;
    EXPECT_THAT(refusal_of_rewritten("\"shape\":[", fmt::format("\"shape\":[{},", number)), complaint);
  }
}

}  // namespace
}  // namespace wuneng::trainer
