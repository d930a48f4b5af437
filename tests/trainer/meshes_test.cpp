// Runs of the same training over many meshes: the same curve over tensor-parallel ranks, and the same bits
// over data-parallel ones. The largest differences are printed as a table.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/file.h"
#include "common/json.h"
#include "tests/support/tiny_run.h"
#include "tests/trainer/small_configs.h"

namespace wuneng::tests {
namespace {

using trainer::small_hybrid;
using trainer::SmallConfig;

struct MeshOfRun {
  int data, tensor;
  bool sequence = false, shard_optimizer = true;

  int ranks() const { return data * tensor; }
  std::string name() const {
    return fmt::format("{}x{}{}{}", data, tensor, sequence ? "s" : "", shard_optimizer ? "" : "u");
  }
};

const MeshOfRun one{1, 1};

class ManyMeshes : public TinyRun {
 protected:
  std::string run_name(const SmallConfig& small, const MeshOfRun& mesh) const {
    std::string name = small.name + "-" + mesh.name();
    std::ranges::replace(name, '/', '-');
    return name;
  }

  // Trains every configuration over every mesh, all those with the same number of ranks in the same
  // processes.
  void train_all(const std::vector<SmallConfig>& configs, std::vector<MeshOfRun> meshes) {
    meshes.push_back(one);
    std::map<int, std::string> lists;
    for (const SmallConfig& small : configs) {
      const auto file = scratch / (run_name(small, one) + ".yaml");
      write_file_atomically(file, to_yaml(small.config));
      for (const MeshOfRun& mesh : meshes)
        lists[mesh.ranks()] += fmt::format(
            "{}\t{}\tdata.train={}\tparallel.data={}\tparallel.tensor={}\tparallel.sequence={}\t"
            "parallel.shard_optimizer={}\n",
            (scratch / run_name(small, mesh)).string(), file.string(), corpus, mesh.data, mesh.tensor,
            mesh.sequence, mesh.shard_optimizer);
    }
    for (const auto& [ranks, list] : lists) {
      const std::string file = (scratch / fmt::format("list{}", ranks)).string();
      write_file_atomically(file, list);
      std::vector<std::string> command{"mpirun", "-n", std::to_string(ranks), std::getenv("WUNENG_MANY_RUNS"),
                                       file};
      const Finished done = run(command);
      ASSERT_EQ(done.exit_code, 0) << done.out;
    }
  }

  std::vector<double> losses(const SmallConfig& small, const MeshOfRun& mesh) const {
    std::istringstream lines(metrics(run_name(small, mesh)));
    std::vector<double> found;
    for (std::string line; std::getline(lines, line);) {
      const Json entry = Json::parse(line);
      if (entry.contains("loss")) found.push_back(entry["loss"].get<double>());
    }
    EXPECT_EQ(std::ssize(found), small.config.trainer.steps);
    return found;
  }

  // Of the losses over all steps, from those of one process.
  double largest_difference(const SmallConfig& small, const MeshOfRun& mesh) const {
    const std::vector<double> ours = losses(small, mesh), theirs = losses(small, one);
    double largest = 0.0;
    for (std::size_t i = 0; i < theirs.size(); ++i)
      largest = std::max(largest, std::abs(ours.at(i) - theirs[i]) / theirs[i]);
    return largest;
  }

  void expect_same_curves(std::vector<SmallConfig> configs, const std::vector<MeshOfRun>& meshes) {
    for (SmallConfig& small : configs)
      small.config.trainer.global_batch = 2;  // as few as two ranks can share
    train_all(configs, meshes);
    if (HasFatalFailure()) return;
    fmt::print(
        "largest relative difference of the loss from one process, {} steps; data x tensor, s: "
        "sequence\n{:<20}",
        configs[0].config.trainer.steps, "");
    for (const MeshOfRun& mesh : meshes) fmt::print("{:>9}", mesh.name());
    for (const SmallConfig& small : configs) {
      fmt::print("\n{:<20}", small.name);
      for (const MeshOfRun& mesh : meshes) {
        const double difference = largest_difference(small, mesh);
        fmt::print("{:>9.1e}", difference);
        EXPECT_LE(difference, mesh.tensor == 1 ? 0.0 : 1e-5) << small.name << " " << mesh.name();
      }
    }
    fmt::print("\n");
  }

  void expect_same_bits(const std::vector<SmallConfig>& configs, const std::vector<MeshOfRun>& meshes) {
    train_all(configs, meshes);
    if (HasFatalFailure()) return;
    for (const SmallConfig& small : configs)
      for (const MeshOfRun& mesh : meshes) {
        EXPECT_EQ(tensors(run_name(small, mesh)), tensors(run_name(small, one)))
            << small.name << " " << mesh.name();
        EXPECT_EQ(metrics(run_name(small, mesh)), metrics(run_name(small, one)))
            << small.name << " " << mesh.name();
      }
  }

  static inline const std::vector<MeshOfRun> some_tensor_meshes{{2, 2}, {1, 4}, {1, 2, true}};
  static inline const std::vector<MeshOfRun> tensor_meshes{{2, 1}, {1, 2},       {1, 4},      {2, 2},
                                                           {2, 4}, {1, 2, true}, {2, 4, true}};
  static inline const std::vector<MeshOfRun> some_data_meshes{{2, 1, false, false}, {8, 1}};
  static inline const std::vector<MeshOfRun> data_meshes{
      {2, 1}, {4, 1}, {8, 1}, {2, 1, false, false}, {4, 1, false, false}, {8, 1, false, false}};
};

TEST_F(ManyMeshes, EveryModelLearnsTheSame) {
  expect_same_curves(trainer::small_models(), some_tensor_meshes);
}

// Between them every fusion and every kind of middle heads.
TEST_F(ManyMeshes, FusionsAndMiddleHeadsLearnTheSame) {
  expect_same_curves(
      {small_hybrid("concat", "concat"), small_hybrid("concat", "additive"), small_hybrid("additive", "key"),
       small_hybrid("additive", "gated"), small_hybrid("gated", "mixed"), small_hybrid("gated", "none")},
      some_tensor_meshes);
}

TEST_F(ManyMeshes, OneToEightDataParallelRanksGiveTheSameBits) {
  expect_same_bits(
      {small_hybrid("concat", "none"), small_hybrid("additive", "key"), small_hybrid("gated", "mixed")},
      some_data_meshes);
}

// By hand: all of it.
TEST_F(ManyMeshes, DISABLED_EveryModelLearnsTheSameOverEveryMesh) {
  expect_same_curves(trainer::small_models(), tensor_meshes);
}

TEST_F(ManyMeshes, DISABLED_EveryFusionWithEveryKindOfMiddleHeadsLearnsTheSame) {
  expect_same_curves(trainer::small_hybrids(), tensor_meshes);
}

TEST_F(ManyMeshes, DISABLED_EveryFusionWithEveryKindOfMiddleHeadsGivesTheSameBits) {
  expect_same_bits(trainer::small_hybrids(), data_meshes);
}

}  // namespace
}  // namespace wuneng::tests
