// What every rank of a mesh writes, read back by every rank of another; the ranks are made one after the
// other on groups whose other ranks do not exist.
#include "trainer/checkpoint/sharding.h"

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include <map>

#include "common/hash.h"
#include "model/language_model.h"
#include "parallel/fake.h"
#include "parallel/flat_parameters.h"
#include "tests/kernels/memory_meter.h"
#include "tests/support/scratch.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/folder.h"

namespace wuneng::trainer {
namespace {

using parallel::Parameter;

// Grouped key heads that four ranks hold in copies, middle heads of every kind, a vocabulary that no rank
// count divides.
model::ModelConfig wuneng() {
  model::ModelConfig config;
  config.width = 32;
  config.layers = 2;
  config.vocab_size = 37;
  config.attention.heads = 4;
  config.attention.kv_heads = 2;
  config.attention.head_size = 8;
  config.state.heads = 4;
  config.state.head_size = 64;
  config.fusion.mode = model::FusionMode::gated;
  config.middle.mode = model::MiddleMode::mixed;
  config.middle.heads = 12;
  config.feed_forward.hidden = 64;
  return config;
}

// The value of one element of the whole, for anyone who knows its name and index.
float value_of(const std::string& name, std::int64_t element) {
  return static_cast<float>(mix_bits(hash_text(name) + static_cast<std::uint64_t>(element)) >> 40) + 1.0f;
}

// The flat index in the whole of element `local` of this rank's part; none in the padding.
std::optional<std::int64_t> whole_index(const Parameter& parameter, std::int64_t local) {
  const std::vector<std::int64_t> part = parameter.value.sizes().vec();
  std::vector<std::int64_t> index(part.size());
  for (std::size_t d = part.size(); d-- > 0; local /= part[d]) index[d] = local % part[d];
  if (parameter.shard_dim >= 0) {
    const auto dim = static_cast<std::size_t>(parameter.shard_dim);
    if (index[dim] >= part[dim] - parameter.padding) return std::nullopt;
    index[dim] += parameter.shard_begin;
  }
  std::int64_t flat = 0;
  for (std::size_t d = 0; d < part.size(); ++d) flat = flat * parameter.global_shape[d] + index[d];
  return flat;
}

struct Mesh {
  int data, tensor;
  bool shard_optimizer;
};

// One rank of a mesh, as the trainer sets it up.
class Rank {
 public:
  Rank(const Mesh& mesh, int data, int tensor)
      : tensor_{tensor, mesh.tensor},
        data_group_(parallel::make_single()),
        tensor_group_(mesh.tensor == 1 ? parallel::make_single()
                                       : std::make_unique<parallel::Fake>(tensor, mesh.tensor)),
        model_(wuneng(), *tensor_group_, 1),
        layout_(model_.parameters(), mesh.data, data, mesh.shard_optimizer),
        background_(*data_group_),
        flat_(model_.parameters(), layout_, background_),
        optimizer_({}, model_.parameters(), layout_) {}

  const parallel::Parameters& parameters() const { return model_.parameters(); }

  // Calls visit(element, name of its tensor, index in the whole) for every element that this rank holds:
  // of its parameters, and of the moments that it updates.
  template <class Visit>
  void for_elements(Visit visit) const {
    const at::NoGradGuard no_grad;
    for (const Parameter& parameter : parameters()) {
      float* values = parameter.value.mutable_data_ptr<float>();
      for (std::int64_t i = 0; i < parameter.value.numel(); ++i)
        if (const auto index = whole_index(parameter, i)) visit(values[i], parameter.name, *index);
    }
    for (const AdamW::Moment& moment : optimizer_.moments()) {
      float* value = moment.owned.mutable_data_ptr<float>();
      for (const parallel::FlatLayout::Range& range : layout_.owned())
        for (std::int64_t at = range.begin; at < range.end(); ++at, ++value)
          for (std::size_t i = 0; i < parameters().size(); ++i) {
            const auto place = layout_.place(i);
            if (at < place.begin || at >= place.end()) continue;
            if (const auto index = whole_index(parameters()[i], at - place.begin))
              visit(*value, parameters()[i].name + "." + moment.name, *index);
          }
    }
  }

  Shard written() const { return written_shard(parameters(), layout_, optimizer_, tensor_); }
  Shard wanted() const { return wanted_shard(parameters(), layout_, optimizer_); }

 private:
  TensorRank tensor_;
  std::unique_ptr<parallel::Communicator> data_group_, tensor_group_;
  model::LanguageModel model_;
  parallel::FlatLayout layout_;
  parallel::Background background_;
  parallel::FlatParameters flat_;
  AdamW optimizer_;
};

std::filesystem::path write(const std::filesystem::path& folder, const Mesh& mesh) {
  Manifest manifest;
  std::filesystem::create_directories(folder);
  for (int d = 0; d < mesh.data; ++d)
    for (int t = 0; t < mesh.tensor; ++t) {
      const Rank rank(mesh, d, t);
      rank.for_elements(
          [](float& element, const std::string& name, std::int64_t i) { element = value_of(name, i); });
      const int number = d * mesh.tensor + t;
      Manifest part = write_shard(folder, rank.written(), number, mesh.data * mesh.tensor);
      if (number == 0)
        manifest = std::move(part);
      else
        manifest.add(std::move(part));
    }
  finish_checkpoint(folder, std::move(manifest));  // refuses gaps and overlaps
  return folder;
}

constexpr Mesh meshes[] = {{1, 1, false}, {2, 1, true}, {1, 2, true}, {2, 2, true},
                           {4, 1, true},  {1, 4, true}, {2, 2, false}};

TEST(Sharding, EveryMeshReadsWhatEveryMeshWrote) {
  const tests::Scratch scratch;
  for (std::size_t m = 0; m < std::size(meshes); ++m) {
    const Checkpoint checkpoint(write(scratch / std::to_string(m), meshes[m]));
    checkpoint.verify();
    for (const Mesh& mesh : meshes) {
      SCOPED_TRACE(
          fmt::format("{} x {} by {} x {}", meshes[m].data, meshes[m].tensor, mesh.data, mesh.tensor));
      for (int d = 0; d < mesh.data; ++d)
        for (int t = 0; t < mesh.tensor; ++t) {
          const Rank rank(mesh, d, t);
          checkpoint.load(rank.wanted(), Checkpoint::Hashes::trust);
          std::int64_t elements = 0, wrong = 0;
          rank.for_elements([&](float& element, const std::string& name, std::int64_t i) {
            ++elements;
            if (element != value_of(name, i)) ++wrong;
          });
          ASSERT_GT(elements, 0);
          ASSERT_EQ(wrong, 0) << "of " << elements << " elements of rank " << d << ", " << t;
        }
    }
  }
}

TEST(Sharding, TheWorkIsSpreadEvenly) {
  const tests::Scratch scratch;
  for (const Mesh& mesh : {Mesh{4, 1, true}, Mesh{1, 4, true}, Mesh{2, 2, false}}) {
    const Checkpoint checkpoint(write(scratch / fmt::format("{}x{}", mesh.data, mesh.tensor), mesh));
    std::map<std::string, std::uint64_t> bytes;
    std::uint64_t total = 0, most = 0;
    for (const SavedTensor& tensor : checkpoint.tensors()) {
      total += tensor.bytes;
      for (const TensorSlice& slice : tensor.slices)
        bytes[slice.file.substr(slice.file.find("rank"))] +=
            static_cast<std::uint64_t>(slice.box.numel()) * 4;
    }
    ASSERT_EQ(bytes.size(), 4u);
    for (const auto& [rank, count] : bytes) most = std::max(most, count);
    EXPECT_LT(static_cast<double>(most), 1.15 * static_cast<double>(total) / 4.0) << mesh.data;
  }
}

// What a rank needs beside its shard while it reads it.
TEST(Sharding, ReadingTakesNoMemory) {
  const tests::Scratch scratch;
  const Checkpoint checkpoint(write(scratch / "four", {2, 2, true}));
  const Rank rank({4, 1, true}, 1, 0);
  const Shard wanted = rank.wanted();
  std::int64_t shard_bytes = 0;
  for (const TensorPieces& tensor : wanted)
    for (const Piece& piece : tensor.pieces) shard_bytes += static_cast<std::int64_t>(piece.data.nbytes());
  const auto meter = kernels::tests::metered([&] { checkpoint.load(wanted); });
  EXPECT_LT(meter.peak, shard_bytes / 100);
}

// An evaluation needs the parameters alone.
TEST(Sharding, AModelThatIsNotTrainedReadsNoMoments) {
  const tests::Scratch scratch;
  const Checkpoint checkpoint(write(scratch / "four", {2, 2, true}));
  const auto alone = parallel::make_single();
  const model::LanguageModel model(wuneng(), *alone, 2);
  checkpoint.load(wanted_parameters(model.parameters()));
  for (const Parameter& parameter : model.parameters()) {
    const float* values = parameter.value.const_data_ptr<float>();
    for (std::int64_t i = 0; i < parameter.value.numel(); ++i)
      ASSERT_EQ(values[i], value_of(parameter.name, i)) << parameter.name;
  }
}

}  // namespace
}  // namespace wuneng::trainer
