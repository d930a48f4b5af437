// The gradients of every model, in float64: there a difference quotient is good to seven digits.
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include "tests/model/every_model.h"

namespace wuneng::model {
namespace {

constexpr double relative = 1e-6;   // to the largest slope that the gradient allows
constexpr double rounding = 1e-10;  // of a difference quotient, for gradients that are nothing else: a bias
                                    // of keys moves all scores of a query alike

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  return at::empty(shape, at::kDouble).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed));
}

// The slope of f at 0 by values at four places: exact up to the fourth power of `step`.
template <class Function>
double slope(Function f, double step) {
  return (8.0 * (f(step) - f(-step)) - (f(2.0 * step) - f(-2.0 * step))) / (12.0 * step);
}

class Gradients : public testing::TestWithParam<Named> {
 protected:
  std::unique_ptr<parallel::Communicator> group = parallel::make_single();
  LanguageModel model = in_float64(shaken(GetParam().config, *group));

  std::vector<at::Tensor> of(const at::Tensor& objective) const {
    objective.backward();
    std::vector<at::Tensor> gradients;
    for (const parallel::Parameter& p : model.parameters()) {
      gradients.push_back(p.value.grad());
      p.value.mutable_grad().reset();
    }
    return gradients;
  }
};
INSTANTIATE_TEST_SUITE_P(Configurations, Gradients, testing::ValuesIn(every_model),
                         [](const auto& info) { return info.param.name; });

// Along one random direction of each parameter.
TEST_P(Gradients, AreTheSlopesOfTheLoss) {
  const bool boundaries = model.config().state.boundary_states > 0;  // which lie 64 tokens apart
  const std::int64_t rows = boundaries ? 1 : 2, length = boundaries ? 70 : 10;
  const at::Tensor ids = tokens(rows, length), targets = tokens(rows, length, 5);
  const at::Tensor starts = at::tensor({std::int64_t{4}});  // two documents in the first row
  const auto objective = [&] { return model.loss(ids, targets, starts).objective; };
  const std::vector<at::Tensor> gradients = of(objective());
  const at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    const at::Tensor value = model.parameters()[i].value, kept = value.clone();
    const at::Tensor random = normal(value.sizes(), 100 + i), direction = random.div(random.norm());
    const double expected = slope(
        [&](double distance) {
          value.copy_(kept.add(direction, distance));
          return objective().item<double>();
        },
        5e-4);
    value.copy_(kept);
    EXPECT_NEAR(gradients[i].mul(direction).sum().item<double>(), expected,
                relative * gradients[i].norm().item<double>() + rounding)
        << model.parameters()[i].name;
  }
}

TEST_P(Gradients, AreTheSameForAnySplitOfTheTokens) {  // through all that is carried from piece to piece
  const at::Tensor ids = tokens(2, 75), weights = normal({2, 75, vocab}, 1);
  const auto objective = [&](const at::Tensor& hidden) { return model.logits(hidden).mul(weights).sum(); };
  const std::vector<at::Tensor> whole = of(objective(model.hidden(ids)));
  ModelState state;
  std::vector<at::Tensor> parts;
  std::int64_t begin = 0;
  for (const std::int64_t length : {20, 1, 33, 21}) {
    parts.push_back(model.hidden(ids.narrow(1, begin, length), {}, &state));
    begin += length;
  }
  const std::vector<at::Tensor> split = of(objective(at::cat(parts, 1)));
  for (std::size_t i = 0; i < whole.size(); ++i)
    EXPECT_LT(split[i].sub(whole[i]).norm().item<double>(), 1e-11 * whole[i].norm().item<double>() + 1e-12)
        << model.parameters()[i].name;
}

}  // namespace
}  // namespace wuneng::model
