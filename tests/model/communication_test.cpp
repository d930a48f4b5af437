// What a model says to the other ranks of its tensor group, counted on a group of which one rank is real.
#include <gtest/gtest.h>

#include "parallel/fake.h"
#include "tests/model/every_model.h"

namespace wuneng::model {
namespace {

ModelConfig divisible_by_two(ModelConfig config) {
  if (config.attention.heads > 0) config.attention.heads = 4, config.attention.kv_heads = 2;
  if (config.state.heads > 0) config.state.heads = 2;
  if (config.state.kv == StateKv::shared) config.attention.head_size = config.state.head_size;
  if (config.middle.mode != MiddleMode::none) config.middle.heads = 6;
  return config;
}

class Communication : public testing::TestWithParam<Named> {};
INSTANTIATE_TEST_SUITE_P(Configurations, Communication, testing::ValuesIn(every_model),
                         [](const auto& info) { return info.param.name; });

// As in a Transformer: one all-reduce per mixer and one per feed-forward in each direction; state and middle
// heads add none. The two ends: one for the embedding, one for the gradient of the head, and one gather of
// four numbers per token for the loss.
TEST_P(Communication, TwoAllReducesPerLayerInEachDirection) {
  const ModelConfig config = divisible_by_two(GetParam().config);
  constexpr std::int64_t B = 2, T = 14;
  for (int rank : {0, 1}) {
    parallel::Fake group(rank, 2);
    const LanguageModel model(config, group, 1);
    const auto sums = [&] { return group.traffic()["all_reduce_sum"]; };
    const at::Tensor objective = model.loss(tokens(B, T), tokens(B, T, 5)).objective;
    const std::int64_t bytes = B * T * config.width * 4;
    EXPECT_EQ(sums().calls, 1 + 2 * config.layers);
    EXPECT_EQ(sums().bytes, (1 + 2 * config.layers) * bytes);
    EXPECT_EQ(group.traffic()["all_gather"].bytes, B * T * 4 * 8);
    group.reset();
    objective.backward();
    EXPECT_EQ(sums().calls, 2 * config.layers + 1);
    EXPECT_EQ(sums().bytes, (2 * config.layers + 1) * bytes);
    EXPECT_EQ(group.traffic().size(), 1u);
  }
}

// With the stream in parts each all-reduce is a reduce-scatter after a block and an all-gather before the
// next, which move the same bytes.
TEST_P(Communication, WithSequenceParallelismTwoPairsPerLayerInEachDirection) {
  const ModelConfig config = divisible_by_two(GetParam().config);
  constexpr std::int64_t B = 2, T = 14;
  for (int rank : {0, 1}) {
    parallel::Fake group(rank, 2);
    const LanguageModel model(config, group, 1, {.sequence = true});
    const at::Tensor objective = model.loss(tokens(B, T), tokens(B, T, 5)).objective;
    const std::int64_t bytes = B * T * config.width * 4, edges = 2 * config.layers + 1;
    const auto expect_traffic = [&](std::int64_t of_loss) {
      const auto scatters = group.traffic()["reduce_scatter_sum"], gathers = group.traffic()["all_gather"];
      EXPECT_EQ(scatters.calls, edges);
      EXPECT_EQ(scatters.bytes, edges * bytes);  // handed in whole
      EXPECT_EQ(gathers.calls, edges + (of_loss > 0 ? 1 : 0));
      EXPECT_EQ(gathers.bytes, edges * bytes / 2 + of_loss);  // handed in by halves
      EXPECT_EQ(group.traffic().size(), 2u);
    };
    expect_traffic(B * T * 4 * 8);
    group.reset();
    objective.backward();
    expect_traffic(0);
  }
}

}  // namespace
}  // namespace wuneng::model
