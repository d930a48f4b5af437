// What linear_cross_entropy.h refuses and promises beyond its definition, which is tested in
// elementwise_test.cpp, tests/gpu and emulated/.
#include "kernels/linear_cross_entropy.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <array>
#include <barrier>
#include <thread>

#include "kernels/linear_cross_entropy_launch.h"
#include "tests/kernels/compare.h"
#include "tests/kernels/memory_meter.h"
#include "tests/kernels/refusals.h"

namespace wuneng::kernels::tests {
namespace {

struct Problem {
  at::Tensor hidden, weight, targets;

  at::Tensor objective(LogitPenalties penalties = {}) const {
    return linear_cross_entropy(hidden, weight, targets, weight.size(0), penalties).objective;
  }
};

Problem problem(std::int64_t n, std::int64_t V, std::int64_t C, at::ScalarType dtype = at::kFloat) {
  return {normal({n, C}, 1, dtype).requires_grad_(), normal({V, C}, 2, dtype).requires_grad_(),
          at::randint(0, V, {n}, at::detail::createCPUGenerator(3), at::kLong)};
}

void expect_says(const std::string& message, const std::string& wanted) {
  EXPECT_NE(message.find(wanted), std::string::npos) << "'" << message << "' does not say '" << wanted << "'";
}

TEST(LinearCrossEntropyOp, HandsItsGradientsOverOnce) {
  const Problem p = problem(5, 7, 4);
  const at::Tensor objective = p.objective();
  objective.backward({}, /*retain_graph=*/true);
  const at::Tensor first = p.weight.grad().clone();
  expect_says(refusal([&] { objective.backward(); }), "a second backward pass");
  EXPECT_TRUE(p.weight.grad().equal(first));
  expect_says(refusal([&] {
                torch::autograd::grad({p.objective()}, {p.weight}, {}, /*retain_graph=*/{},
                                      /*create_graph=*/true);
              }),
              "no second derivative");
}

// A vocabulary in shards of `rows` rows, each a thread of its own as if it were a process; the last holds
// rows of padding where they do not come out even.
struct Sharded {
  LinearCrossEntropy result;      // of the first shard
  at::Tensor d_hidden, d_weight;  // of the whole

  Sharded(const Problem& whole, std::int64_t shards, LogitPenalties penalties) {
    const std::int64_t V = whole.weight.size(0), C = whole.weight.size(1), rows = (V + shards - 1) / shards;
    std::vector<at::Tensor> said(static_cast<std::size_t>(shards)), hidden(said), weight(said);
    std::vector<LinearCrossEntropy> results(static_cast<std::size_t>(shards));
    std::barrier meeting(shards);
    std::vector<std::jthread> threads;
    for (std::int64_t s = 0; s < shards; ++s)
      threads.emplace_back([&, s] {
        const auto me = static_cast<std::size_t>(s);
        const std::int64_t begin = s * rows, count = std::min(rows, V - begin);
        hidden[me] = whole.hidden.detach().clone().requires_grad_();
        weight[me] = at::zeros({rows, C}, whole.weight.options().requires_grad(false));
        weight[me].narrow(0, 0, count).copy_(whole.weight.detach().narrow(0, begin, count));
        weight[me].requires_grad_();
        const VocabularyShard shard{begin, shards, s, V, [&, me](const at::Tensor& mine) {
                                      meeting.arrive_and_wait();  // the shards before are done with `said`
                                      said[me] = mine;
                                      meeting.arrive_and_wait();
                                      return at::stack(said);
                                    }};
        results[me] = linear_cross_entropy(hidden[me], weight[me], whole.targets, count, penalties, shard);
        results[me].objective.backward();
      });
    threads.clear();
    result = results[0];
    d_hidden = hidden[0].grad().clone();
    for (std::size_t s = 1; s < hidden.size(); ++s) {
      d_hidden.add_(hidden[s].grad());
      EXPECT_TRUE(results[s].losses.equal(result.losses) && results[s].objective.equal(result.objective));
    }
    std::vector<at::Tensor> gradients;
    for (const at::Tensor& w : weight) gradients.push_back(w.grad());
    const at::Tensor padded = at::cat(gradients);
    d_weight = padded.narrow(0, 0, V);
    EXPECT_EQ(padded.narrow(0, V, padded.size(0) - V).abs().sum().item<double>(), 0.0);
  }
};

TEST(LinearCrossEntropyOp, ShardsOfAVocabularyAreTheWhole) {
  for (const LogitPenalties penalties : {LogitPenalties{}, LogitPenalties{.z_loss = 1e-2, .pull = 3e-2}})
    for (const std::int64_t shards : {2, 3, 4}) {
      Problem p = problem(70, 301, 8, at::kDouble);
      p.targets.select(0, 5).fill_(-1);
      const LinearCrossEntropy whole =
          linear_cross_entropy(p.hidden, p.weight, p.targets, p.weight.size(0), penalties);
      whole.objective.backward();
      const Sharded parts(p, shards, penalties);
      EXPECT_LT(error_ratio(parts.result.losses, whole.losses), 1e-14);
      EXPECT_LT(error_ratio(parts.result.objective, whole.objective.detach()), 1e-14);
      EXPECT_LT(error_ratio(parts.d_hidden, p.hidden.grad()), 1e-13);
      EXPECT_LT(error_ratio(parts.d_weight, p.weight.grad()), 1e-13);
    }
}

TEST(LinearCrossEntropyOp, ScalesItsGradientsByTheCotangent) {
  const Problem p = problem(40, 300, 8, at::kDouble);
  const LogitPenalties penalties{.z_loss = 1e-2, .pull = 3e-2};
  const auto gradient = [&](const at::Tensor& objective) {
    return torch::autograd::grad({objective}, {p.weight})[0];
  };
  const at::Tensor one = gradient(p.objective(penalties)), third = gradient(p.objective(penalties).div(3.0));
  EXPECT_LT(error_ratio(third.mul(3.0), one), 1e-14);
}

TEST(LinearCrossEntropyOp, HoldsABlockOfLogitsAndEachGradientOnce) {
  constexpr std::int64_t V = 20000, slack = 1 << 20;
  // All logits of the first would be 153 MiB; of the second the weight's gradient is the largest, 20 MiB.
  for (const auto& [n, C, block] : {std::array<std::int64_t, 3>{2000, 8, 64 << 20}, {50, 256, 50 * V * 4}}) {
    const Problem p = problem(n, V, C);
    const MemoryMeter meter = metered([&] { p.objective().div(2.0).backward(); });
    const auto gradients = static_cast<std::int64_t>(p.hidden.nbytes() + p.weight.nbytes());
    EXPECT_EQ(meter.alive, gradients);
    EXPECT_LT(meter.peak, gradients + block + slack);
    EXPECT_GT(meter.peak, gradients + block - slack);
  }
}

TEST(LinearCrossEntropyOp, LogitsThatAreNoNumberShow) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble})
    for (const float bad : {std::nanf(""), -std::nanf(""), HUGE_VALF}) {
      const Problem p = problem(3, 50, 4, dtype);
      p.hidden.detach()[1].fill_(bad);
      const LinearCrossEntropy out =
          linear_cross_entropy(p.hidden, p.weight, p.targets, 50, {.z_loss = 1e-2, .pull = 1e-2});
      out.objective.backward();
      EXPECT_TRUE(out.objective.isnan().item<bool>());
      for (int i = 0; i < 3; ++i) EXPECT_EQ(out.losses[i].isnan().item<bool>(), i == 1);
      EXPECT_TRUE(p.weight.grad().isnan().all().item<bool>());
    }
}

// The sum of a loss near 1 and a logit near 10^4 would have three digits.
TEST(LinearCrossEntropyOp, LargeLogitsCostNoDigits) {
  constexpr std::int64_t rows = 4, V = 1003;
  const std::vector<std::int64_t> targets{0, 1002, 500, 7};
  for (const double shift : {1e4, -1e4}) {
    at::Tensor logits = normal({rows, V}, 5).add(shift).to(at::kFloat);
    const at::Tensor z = logits.to(at::kDouble), softmax = z.softmax(1);
    std::vector<float> losses(rows), objectives(rows);
    auto* data = logits.mutable_data_ptr<float>();
    logit_rows({data, data, targets.data(), losses.data(), objectives.data(), rows, V, V, V, 0.0f, 0.0f}, 0,
               rows);
    for (std::int64_t i = 0; i < rows; ++i) {
      const double loss = -std::log(softmax[i][targets[i]].item<double>());
      EXPECT_NEAR(losses[i], loss, 1e-6 * loss);
      softmax[i][targets[i]].sub_(1.0);
    }
    EXPECT_LT(error_ratio(logits, softmax), 1e-6);
  }
}

TEST(LinearCrossEntropyOp, RefusesWhatCudaCannotTake) {
  const at::Tensor hidden = pretended_cuda({2, 8}, at::kBFloat16), targets = pretended_cuda({2}, at::kLong);
  const auto refused = [&](const at::Tensor& h, const at::Tensor& w, const at::Tensor& t,
                           const std::string& message) {
    return cuda_refusal([&] { linear_cross_entropy(h, w, t, 5); }, message);
  };
  const at::Tensor weight = pretended_cuda({5, 8}, at::kBFloat16);
  EXPECT_EQ(refused(hidden, weight, at::zeros({2}, at::kLong), "targets is on cpu"), "");
  EXPECT_EQ(refused(hidden, pretended_cuda({5, 8}, at::kFloat), targets, "weight has dtype Float"), "");
  EXPECT_EQ(refused(hidden, pretended_cuda({5, 8}, at::kBFloat16, 2), targets, "weight begins 2 bytes past"),
            "");
  EXPECT_EQ(
      refused(hidden, pretended_cuda({(1 << 24) + 1, 8}, at::kBFloat16), targets, "at most 16777216 rows"),
      "");
  EXPECT_EQ(refused(hidden.to("meta"), weight, targets, "expected the CPU or CUDA"), "");
}

}  // namespace
}  // namespace wuneng::kernels::tests
