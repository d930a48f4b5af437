// The gradient of a batch over every mesh of the ranks, for every kind of model: that of one process.
#include <ATen/ops/zeros.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "parallel/gradient_norm.h"
#include "parallel/gradient_tree.h"
#include "parallel/mesh.h"
#include "tests/model/every_model.h"
#include "tests/support/world.h"
#include "tests/trainer/small_configs.h"

namespace wuneng::trainer {
namespace {

constexpr double bar = 1e-11;  // in float64
constexpr std::int64_t micro_batches = 4;

// Of one batch, with every parameter shaken so that none hides behind a zero.
struct Gradients {
  model::LanguageModel model;
  parallel::FlatLayout layout;
  at::Tensor flat;

  Gradients(const Config& config, const parallel::Mesh& mesh)
      : model(config.model, mesh.tensor(), 1, {.sequence = config.parallel.sequence}),
        layout(model.parameters(), mesh.data().size(), mesh.data().rank(), /*shared=*/false) {
    model::shake_in_float64(model.parameters());
    parallel::Background data(mesh.data());
    parallel::GradientTree tree(model.parameters(), layout, data, micro_batches);
    const std::int64_t local = tree.local_micro_batches();
    for (std::int64_t m = 0; m < local; ++m) {
      const auto seed = static_cast<std::uint64_t>(mesh.data().rank() * local + m);
      const std::int64_t T = config.data.sequence_length;
      tree.begin_micro_batch();
      model.loss(model::tokens(1, T, 10 + seed), model::tokens(1, T, 50 + seed)).objective.backward();
      tree.end_micro_batch();
    }
    flat = tree.reduce().clone();
    parallel::sum_partial_gradients(flat, model.parameters(), layout, mesh.tensor());
  }
};

struct MeshSize {
  std::int64_t data, tensor;
};

std::vector<MeshSize> meshes(int ranks) {
  std::vector<MeshSize> found;
  for (const std::int64_t data : {1, 2})
    for (const std::int64_t tensor : {1, 2, 4})
      if (data * tensor == ranks) found.push_back({data, tensor});
  return found;
}

void expect_gradients_of_the_whole(const SmallConfig& small) {
  const auto alone = parallel::make_single();
  const Gradients whole(small.config, parallel::Mesh({.data = 1, .tensor = 1}, *alone));
  const std::vector<at::Tensor> wanted = whole.layout.views(whole.flat);
  for (const MeshSize& size : meshes(tests::world().size()))
    for (const bool sequence : {false, true}) {
      if (sequence && size.tensor == 1) continue;
      SCOPED_TRACE(
          fmt::format("{}, data {} x tensor {}, sequence {}", small.name, size.data, size.tensor, sequence));
      Config config = small.config;
      config.parallel.sequence = sequence;
      const Gradients mine(
          config, parallel::Mesh({.data = size.data, .tensor = size.tensor}, tests::world().communicator()));
      const std::vector<at::Tensor> gradients = mine.layout.views(mine.flat);
      for (std::size_t i = 0; i < gradients.size(); ++i) {
        const parallel::Parameter& p = mine.model.parameters()[i];
        const at::Tensor theirs = model::part_of(wanted[i], p),
                         ours = gradients[i].narrow(0, 0, theirs.size(0));
        EXPECT_GT(wanted[i].norm().item<double>(), 0.0) << p.name;
        EXPECT_LT(ours.sub(theirs).norm().item<double>(), bar * (1.0 + theirs.norm().item<double>()))
            << p.name;
      }
    }
}

TEST(MeshGradients, OfEveryModelAreThoseOfOneProcess) {
  for (const SmallConfig& small : small_models()) expect_gradients_of_the_whole(small);
}

TEST(MeshGradients, OfEveryFusionAndMiddleModeAreThoseOfOneProcess) {
  for (const SmallConfig& small : small_hybrids()) expect_gradients_of_the_whole(small);
}

}  // namespace
}  // namespace wuneng::trainer
