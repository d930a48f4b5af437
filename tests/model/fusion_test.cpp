// What combining heads must reduce to: copies of one branch, and, where it is linear, to nothing new.
#include "model/fusion.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/randint.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>

#include "model/language_model.h"
#include "model/middle_heads.h"

namespace wuneng::model {
namespace {

at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed) {
  return at::empty(shape, at::kFloat).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed));
}

double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return a.sub(b).abs().max().item<double>();
}

// A module on its own, and its parameters by name.
struct Workbench {
  parallel::Parameters parameters;
  std::unique_ptr<parallel::Communicator> group = parallel::make_single();
  parallel::LayerBuilder layers{parameters, *group, 1};

  at::Tensor operator[](const std::string& name) const {
    for (const parallel::Parameter& p : parameters)
      if (p.name == name) return p.value.detach();
    ADD_FAILURE() << "no parameter " << name;
    return {};
  }
};

constexpr std::int64_t H = 4, d = 16, N = 16;

struct Pairs : testing::Test {
  at::NoGradGuard no_grad;
  at::Tensor attention = normal({2, 5, H, d}, 1), state = normal({2, 5, 2, N}, 2);
  at::Tensor paired_state = choose_heads(state, {0, 0, 1, 1});
  std::vector<HeadPair> pairs = pair_heads(H, H, 2);
};

TEST_F(Pairs, AreByNumber) {
  const auto numbers = [](std::int64_t heads, std::int64_t attention, std::int64_t state) {
    std::vector<std::pair<std::int64_t, std::int64_t>> out;
    for (const HeadPair& p : pair_heads(heads, attention, state)) out.emplace_back(p.attention, p.state);
    return out;
  };
  using Numbers = std::vector<std::pair<std::int64_t, std::int64_t>>;
  EXPECT_EQ(numbers(3, 6, 3), (Numbers{{0, 0}, {2, 1}, {4, 2}}));
  EXPECT_EQ(numbers(4, 2, 1), (Numbers{{0, 0}, {0, 0}, {1, 0}, {1, 0}}));
}

TEST_F(Pairs, ConcatOfAnIdentityCopiesEitherBranch) {
  Workbench bench;
  const HeadPairs concat(PairMode::concat, H, pairs, d, N, bench.layers);
  at::Tensor joint = bench["joint"];  // [H, d + N, d]
  joint.zero_();
  joint.narrow(1, 0, d).add_(at::eye(d));
  EXPECT_LT(largest_difference(concat(attention, state), attention), 1e-6);
  joint.zero_();
  joint.narrow(1, d, N).add_(at::eye(d));
  EXPECT_LT(largest_difference(concat(attention, state), paired_state), 1e-6);
}

TEST_F(Pairs, AdditiveStartsAsTheAttentionHead) {
  Workbench bench;
  const HeadPairs additive(PairMode::additive, H, pairs, d, N, bench.layers);
  EXPECT_TRUE(additive(attention, state).equal(attention));
  bench["beta"].fill_(1.0);
  bench["lift"].zero_().add_(at::eye(d));
  EXPECT_LT(largest_difference(additive(attention, state), attention.add(paired_state)), 1e-6);
}

TEST_F(Pairs, GateAtItsEndsIsOneBranch) {
  Workbench bench;
  const HeadPairs gated(PairMode::gated, H, pairs, d, N, bench.layers);
  bench["lift"].zero_().add_(at::eye(d));
  bench["gate_bias"].fill_(200.0);
  EXPECT_LT(largest_difference(gated(attention, state), attention), 1e-6);
  bench["gate_bias"].fill_(-200.0);
  EXPECT_LT(largest_difference(gated(attention, state), paired_state), 1e-6);
  bench["gate_bias"].fill_(0.0);  // the gate's matrix starts at zero: an even mixture
  EXPECT_LT(largest_difference(gated(attention, state), attention.add(paired_state).mul(0.5)), 1e-6);
}

TEST_F(Pairs, EachPairSeesItsOwnHeadsOnly) {
  for (const PairMode mode : {PairMode::concat, PairMode::additive, PairMode::gated}) {
    Workbench bench;
    const HeadPairs heads(mode, H, pairs, d, N, bench.layers);
    if (mode == PairMode::additive) bench["beta"].fill_(0.5);
    const at::Tensor before = heads(attention, state);
    at::Tensor changed = state.clone();
    changed.select(2, 1).add_(1.0);
    const at::Tensor after = heads(attention, changed);
    EXPECT_TRUE(after.narrow(2, 0, 2).equal(before.narrow(2, 0, 2)));
    EXPECT_GT(largest_difference(after.narrow(2, 2, 2), before.narrow(2, 2, 2)), 1e-3);
  }
}

ModelConfig tiny(MiddleMode middle) {
  ModelConfig config;
  config.width = 64;
  config.layers = 2;
  config.vocab_size = 50;
  config.attention = {.heads = 4, .kv_heads = 2, .head_size = 16};
  config.state.heads = 2;
  config.fusion.alpha = Alpha::fixed;
  config.middle = {.mode = middle, .heads = middle == MiddleMode::none ? 0 : 3, .norm = false};
  return config;
}

std::map<std::string, at::Tensor> by_name(const LanguageModel& model) {
  std::map<std::string, at::Tensor> tensors;
  for (const parallel::Parameter& p : model.parameters()) tensors[p.name] = p.value.detach();
  return tensors;
}

// Without their norm, concatenating and additive middle heads are linear in [A; R]: folded into the output
// matrix they leave the model that has none.
TEST(MiddleHeads, LinearOnesFoldIntoTheOutputMatrix) {
  const at::NoGradGuard no_grad;
  const auto group = parallel::make_single();
  const at::Tensor ids = at::randint(0, 50, {2, 30}, at::detail::createCPUGenerator(3), at::kLong);
  for (const MiddleMode mode : {MiddleMode::concat, MiddleMode::additive}) {
    const LanguageModel model(tiny(mode), *group, 1), plain(tiny(MiddleMode::none), *group, 1);
    std::map<std::string, at::Tensor> from = by_name(model), to = by_name(plain);
    std::uint64_t seed = 10;
    for (auto& [name, tensor] : from) {
      if (name.find("output") == std::string::npos && name.find("beta") == std::string::npos) continue;
      tensor.copy_(normal(tensor.sizes(), ++seed).mul(0.1));
      if (to.contains(name)) to[name].copy_(tensor);
    }
    for (std::int64_t l = 0; l < 2; ++l) {
      const std::string layer = fmt::format("layers.{}.", l);
      const at::Tensor rows = from[layer + "output.middle.weight"].view({64, 3, 16});
      for (std::int64_t m = 0; m < 3; ++m) {
        const HeadPair pair = pair_heads(3, 4, 2)[static_cast<std::size_t>(m)];
        at::Tensor of_attention = at::eye(16), of_state;  // M = A of_attention + R of_state
        if (mode == MiddleMode::concat) {
          const at::Tensor joint = from[layer + "middle.concat.joint"][m];
          of_attention = joint.narrow(0, 0, 16);
          of_state = joint.narrow(0, 16, 64);
        } else {
          of_state = from[layer + "middle.additive.lift"][m].mul(from[layer + "middle.additive.beta"][m]);
        }
        const at::Tensor row = rows.select(1, m);  // [C, d]
        to[layer + "output.attention.weight"]
            .narrow(1, pair.attention * 16, 16)
            .add_(row.mm(of_attention.t()));
        to[layer + "output.state.weight"].narrow(1, pair.state * 64, 64).add_(row.mm(of_state.t()));
      }
    }
    EXPECT_LT(largest_difference(model.hidden(ids), plain.hidden(ids)), 2e-5);
    EXPECT_GT(largest_difference(model.hidden(ids), LanguageModel(tiny(mode), *group, 1).hidden(ids)), 1e-2);
  }
}

// Heads have no order: permuting the groups of heads that meet (here two) changes nothing outside.
TEST(Fusion, PermutedGroupsOfHeadsGiveTheSameModel) {
  const at::NoGradGuard no_grad;
  const auto group = parallel::make_single();
  const at::Tensor ids = at::randint(0, 50, {2, 30}, at::detail::createCPUGenerator(3), at::kLong);
  for (const FusionMode fusion : {FusionMode::concat, FusionMode::additive, FusionMode::gated})
    for (const MiddleMode middle :
         {MiddleMode::concat, MiddleMode::additive, MiddleMode::gated, MiddleMode::key}) {
      ModelConfig config = tiny(middle);
      config.middle.heads = 2;
      config.middle.norm = true;
      config.fusion.mode = fusion;
      const LanguageModel model(config, *group, 1), permuted(config, *group, 1);
      std::uint64_t seed = 10;
      for (const parallel::Parameter& p : model.parameters())
        p.value.detach().add_(normal(p.value.sizes(), ++seed).mul(0.05));
      for (std::size_t i = 0; i < model.parameters().size(); ++i) {
        const parallel::Parameter &from = model.parameters()[i], &to = permuted.parameters()[i];
        at::Tensor value = from.value.detach();
        const bool of_heads = from.name.starts_with("layers.") && from.shard_dim >= 0 &&
                              from.name.find(".ffn.") == std::string::npos;
        if (of_heads) {
          const std::int64_t half = value.size(from.shard_dim) / 2;
          value = value.roll(half, from.shard_dim);
        }
        to.value.detach().copy_(value);
      }
      EXPECT_LT(largest_difference(model.hidden(ids), permuted.hidden(ids)), 5e-5)
          << static_cast<int>(fusion) << static_cast<int>(middle);
    }
}

}  // namespace
}  // namespace wuneng::model
