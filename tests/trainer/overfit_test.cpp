// Every model, as it is initialised, learns a small batch by heart with the trainer's own optimizer.
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "parallel/flat_parameters.h"
#include "parallel/gradient_tree.h"
#include "tests/model/every_model.h"
#include "trainer/optimizer.h"

namespace wuneng::trainer {
namespace {

constexpr std::int64_t rows = 2, length = 16;
constexpr int most_steps = 60;
constexpr double lr = 5e-3, learnt = 0.02;  // nats per token; guessing costs log(50) = 3.9

class Overfit : public testing::TestWithParam<model::Named> {
 protected:
  // Steps until the mean loss of a token is below `learnt`.
  int steps_to_learn(const at::Tensor& document_starts) const {
    const auto group = parallel::make_single();
    const model::LanguageModel model(GetParam().config, *group, 1);
    const parallel::Parameters& parameters = model.parameters();
    parallel::Background background(*group);
    const parallel::FlatLayout layout(parameters, 1, 0, false);
    const parallel::FlatParameters flat(parameters, layout, background);
    parallel::GradientTree gradients(parameters, layout, background, 1);
    AdamW optimizer({.weight_decay = 0.0}, parameters, layout);
    // Of 7 ids only, so that what follows can but be told from what was before. Where nothing was, ids
    // differ: all documents begin with others, and none with the same one twice, of which attention would see
    // but one.
    const at::Tensor ids = model::tokens(rows, length).remainder(7), targets = model::tokens(rows, length, 5);
    for (int step = 0; step < most_steps; ++step) {
      const auto loss = model.loss(ids, targets, document_starts);
      if (loss.losses.mean().item<double>() < learnt) return step;
      gradients.begin_micro_batch();
      loss.objective.backward();
      gradients.end_micro_batch();
      optimizer.step(flat.values(), gradients.reduce(), lr, 1.0 / (rows * length));
    }
    return most_steps;
  }
};
INSTANTIATE_TEST_SUITE_P(Configurations, Overfit, testing::ValuesIn(model::every_model),
                         [](const auto& info) { return info.param.name; });

TEST_P(Overfit, ABatchIsLearntByHeart) { EXPECT_LT(steps_to_learn({}), most_steps); }

TEST_P(Overfit, ABatchOfDocumentsIsLearntByHeart) {
  EXPECT_LT(steps_to_learn(at::tensor({std::int64_t{6}, length + 10})), most_steps);
}

}  // namespace
}  // namespace wuneng::trainer
