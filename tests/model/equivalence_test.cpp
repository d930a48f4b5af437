// Models against their equations, written out here in plain LibTorch, and settings at their ends against the
// simpler models that they must then be. In float64, where what is equal is equal to twelve digits.
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tril.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/model/every_model.h"

namespace wuneng::model {
namespace {

constexpr double bar = 1e-11;  // of hidden states, which the last norm makes about 1

using Weights = std::map<std::string, at::Tensor>;

Weights weights_of(const LanguageModel& model) {
  Weights weights;
  for (const parallel::Parameter& p : model.parameters()) weights[p.name] = p.value.detach();
  return weights;
}

// The weights whose names begin with a prefix.
struct Part {
  const Weights* all;
  std::string prefix;

  bool has(const std::string& name) const { return all->contains(prefix + name); }
  const at::Tensor& operator[](const std::string& name) const { return all->at(prefix + name); }
  Part in(const std::string& name) const { return {all, prefix + name + "."}; }
};

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight) { return x.matmul(weight.t()); }

at::Tensor rms(const at::Tensor& x) { return x.div(x.square().mean(-1, true).add(1e-5).sqrt()); }

at::Tensor standardised(const at::Tensor& x, double eps) {
  const at::Tensor centred = x.sub(x.mean(-1, true));
  return centred.div(centred.square().mean(-1, true).add(eps).sqrt());
}

at::Tensor norm(const Part& w, const at::Tensor& x) {
  return w.has("bias") ? standardised(x, 1e-5).mul(w["weight"]).add(w["bias"]) : rms(x).mul(w["weight"]);
}

// x [T, H, N]: channels i and i + N / 2 are a point of the plane, turned by t / 10000^(2 i / N).
at::Tensor rotated(const at::Tensor& x) {
  at::Tensor out = x.clone();
  const std::int64_t half = x.size(2) / 2;
  for (std::int64_t t = 0; t < x.size(0); ++t)
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(t) *
                           std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(x.size(2)));
      const at::Tensor a = x[t].select(1, i), b = x[t].select(1, i + half);
      out[t].select(1, i).copy_(a.mul(std::cos(angle)).sub(b.mul(std::sin(angle))));
      out[t].select(1, i + half).copy_(a.mul(std::sin(angle)).add(b.mul(std::cos(angle))));
    }
  return out;
}

// [T, C] -> [T, H, N].
at::Tensor attention_heads(const Part& w, const AttentionConfig& config, const at::Tensor& x) {
  const std::int64_t T = x.size(0), H = config.heads, N = config.head_size, group = H / config.kv_heads;
  const auto heads = [&](const char* name) { return linear(x, w[name]).view({T, -1, N}); };
  const at::Tensor q = rotated(heads("query.weight")), k = rotated(heads("key.weight")),
                   v = heads("value.weight");
  std::vector<at::Tensor> out;
  for (std::int64_t h = 0; h < H; ++h) {
    at::Tensor scores = linear(q.select(1, h), k.select(1, h / group)).div(std::sqrt(static_cast<double>(N)));
    scores = scores.exp().tril();
    out.push_back(scores.div(scores.sum(1, true)).matmul(v.select(1, h / group)));
  }
  const at::Tensor all = at::stack(out, 1);
  return w.has("norm.weight") ? rms(all).mul(w["norm.weight"]) : all;
}

// Each token and its predecessor, mixed.
at::Tensor shifted(const at::Tensor& x, const at::Tensor& mix) {
  const at::Tensor previous = at::cat({at::zeros_like(x.narrow(0, 0, 1)), x.narrow(0, 0, x.size(0) - 1)});
  return x.add(previous.sub(x).mul(mix));
}

// The time mix of arXiv 2503.14456, section 4, token by token, before its output matrix. [T, C] -> [T, H, N].
at::Tensor state_heads(const Part& w, const at::Tensor& x, const StateConfig& config,
                       at::Tensor& first_values) {
  const std::int64_t T = x.size(0), H = config.heads, N = w["bonus"].size(1);
  const auto mixed = [&](int row) { return shifted(x, w["mix"][row]); };
  const auto heads = [&](const at::Tensor& channels) { return channels.view({T, H, N}); };
  const auto plus_bias = [&](const std::string& name, const at::Tensor& hidden) {
    const at::Tensor out = hidden.matmul(w[name + ".up"]);
    return heads(w.has(name + ".bias") ? out.add(w[name + ".bias"]) : out);
  };
  const auto down = [&](const std::string& name, int row) { return mixed(row).matmul(w[name + ".down"]); };

  const at::Tensor r = heads(linear(mixed(0), w["receptance.weight"]));
  const at::Tensor decay = plus_bias("decay", down("decay", 1).tanh()).sigmoid().mul(-std::exp(-0.5)).exp();
  const at::Tensor key = heads(linear(mixed(2), w["key.weight"]));
  at::Tensor v = heads(linear(mixed(3), w["value.weight"]));
  if (first_values.defined())
    v = v.add(first_values.sub(v).mul(plus_bias("value_residual", down("value_residual", 3)).sigmoid()));
  else
    first_values = v;
  const at::Tensor rate = plus_bias("rate", down("rate", 4)).sigmoid();
  const at::Tensor gate = plus_bias("gate", down("gate", 5).sigmoid());
  const at::Tensor scaled = key.mul(w["removal"]), removal = scaled.div(scaled.norm(2, -1, true));
  const at::Tensor k = key.mul(rate.sub(1.0).mul(w["replacement"]).add(1.0));

  // How much is taken away; with twice of it, and without decay, its sign turns.
  const at::Tensor taken = config.negative_eigenvalues ? rate.mul(decay.add(1.0)) : rate;

  at::Tensor state = at::zeros({H, N, N}, x.options());  // values x keys
  std::vector<at::Tensor> read;
  for (std::int64_t t = 0; t < T; ++t) {
    const at::Tensor removed = state.matmul(removal[t].unsqueeze(2));  // what lies under the removal key
    state = state.mul(decay[t].unsqueeze(1))
                .sub(removed.matmul(taken[t].mul(removal[t]).unsqueeze(1)))
                .add(v[t].unsqueeze(2).matmul(k[t].unsqueeze(1)));
    read.push_back(state.matmul(r[t].unsqueeze(2)).squeeze(2));
  }
  const at::Tensor y =
      standardised(at::stack(read), 1e-5 * static_cast<double>(N)).mul(w["norm.weight"]).add(w["norm.bias"]);
  return y.add(r.mul(w["bonus"]).mul(k).sum(-1, true).mul(v)).mul(gate);
}

at::Tensor feed_forward(const Part& w, const at::Tensor& x) {
  if (w.has("mix")) {
    const at::Tensor key = linear(shifted(x, w["mix"]), w["key.weight"]).clamp_min(0.0).square();
    return linear(key, w["value.weight"]);
  }
  const at::Tensor gate = linear(x, w["gate.weight"]);
  return linear(gate.mul(gate.sigmoid()).mul(linear(x, w["up.weight"])), w["down.weight"]);
}

// Of both kinds of heads each has an output matrix of its own, and their outputs are added.
at::Tensor by_equations(const LanguageModel& model, const at::Tensor& ids) {
  const ModelConfig& config = model.config();
  const Weights weights = weights_of(model);
  const Part w{&weights, ""};
  at::Tensor h = w["embedding.weight"].index_select(0, ids), first_values;
  if (config.embedding_norm) h = norm(w.in("embedding_norm"), h);
  for (std::int64_t l = 0; l < config.layers; ++l) {
    const Part layer = w.in(fmt::format("layers.{}", l));
    const at::Tensor u = norm(layer.in("mixer_norm"), h);
    if (config.has_attention(l))
      h = h.add(linear(attention_heads(layer.in("attention"), config.attention, u).flatten(1),
                       layer["output.attention.weight"]));
    if (config.has_state(l)) {
      const at::Tensor heads = state_heads(layer.in("state"), u, config.state, first_values);
      const at::Tensor scaled = layer.has("fusion.alpha") ? heads.mul(layer["fusion.alpha"]) : heads;
      h = h.add(linear(scaled.flatten(1), layer["output.state.weight"]));
    }
    h = h.add(feed_forward(layer.in("ffn"), norm(layer.in("ffn_norm"), h)));
  }
  return norm(w.in("final_norm"), h);
}

class Equivalence : public testing::Test {
 protected:
  at::NoGradGuard no_grad;
  std::unique_ptr<parallel::Communicator> group = parallel::make_single();
  at::Tensor ids = tokens(2, 40);

  LanguageModel make(const ModelConfig& config) const { return in_float64(shaken(config, *group)); }

  void expect_by_equations(const ModelConfig& config) const {
    const LanguageModel model = make(config);
    const at::Tensor hidden = model.hidden(ids);
    for (std::int64_t row = 0; row < 2; ++row)
      EXPECT_LT(largest_difference(hidden[row], by_equations(model, ids[row])), bar);
  }

  // A model and a simpler one, which takes from the first what it has under the same name. `change` is called
  // for each layer with both models' weights; it must make a difference, and the two equal.
  template <class Change>
  void expect_same(const ModelConfig& config, const ModelConfig& simple_config, Change change) const {
    const LanguageModel model = make(config), simple = make(simple_config);
    const Weights from = weights_of(model), to = weights_of(simple);
    for (const auto& [name, tensor] : to)
      if (from.contains(name) && from.at(name).sizes() == tensor.sizes()) tensor.copy_(from.at(name));
    const auto difference = [&] { return largest_difference(model.hidden(ids), simple.hidden(ids)); };
    EXPECT_GT(difference(), 1e-4) << "they were equal before";
    for (std::int64_t l = 0; l < config.layers; ++l) {
      const std::string layer = fmt::format("layers.{}.", l);
      change(Part{&from, layer}, Part{&to, layer});
    }
    EXPECT_LT(difference(), bar);
  }
};

// tiny() without the norm of attention heads, which a Transformer has not.
template <class Change>
ModelConfig without_norm(Change change) {
  ModelConfig config = with(change);
  config.fusion.attention_norm = false;
  return config;
}

TEST_F(Equivalence, ATransformerIsItsEquations) { expect_by_equations(transformer()); }

TEST_F(Equivalence, Rwkv7IsItsEquations) { expect_by_equations(rwkv7()); }

TEST_F(Equivalence, StatesThatTurnSignsAreTheirEquations) {
  ModelConfig config = rwkv7();
  config.state.negative_eigenvalues = true;
  expect_by_equations(config);
}

TEST_F(Equivalence, AHybridIsTheSumOfItsHeadsEachThroughItsOwnMatrix) {
  expect_by_equations(with([](ModelConfig& c) { c.state.heads = 2; }));
}

TEST_F(Equivalence, AlphaZeroIsTheTransformer) {
  expect_same(without_norm([](ModelConfig&) {}), transformer(),
              [](const Part& hybrid, const Part&) { hybrid["fusion.alpha"].zero_(); });
}

TEST_F(Equivalence, AlphaFoldsIntoTheOutputMatrix) {
  expect_same(tiny(), fused(FusionMode::concat, Alpha::fixed), [](const Part& scaled, const Part& fixed) {
    scaled["fusion.alpha"].fill_(0.7);
    fixed["output.state.weight"].mul_(0.7);
  });
}

TEST_F(Equivalence, OutputRowsOfZeroAreTheTransformer) {
  for (const MiddleMode mode : {MiddleMode::none, MiddleMode::concat, MiddleMode::additive, MiddleMode::gated,
                                MiddleMode::key, MiddleMode::mixed}) {
    const ModelConfig config = without_norm([&](ModelConfig& c) { c.middle.mode = mode; });
    expect_same(config, transformer(), [](const Part& hybrid, const Part&) {
      hybrid["output.state.weight"].zero_();
      if (hybrid.has("output.middle.weight")) hybrid["output.middle.weight"].zero_();
    });
  }
}

TEST_F(Equivalence, AnOpenGateIsTheTransformer) {
  expect_same(without_norm([](ModelConfig& c) { c.fusion.mode = FusionMode::gated; }), transformer(),
              [](const Part& gated, const Part&) { gated["fusion.gate_bias"].fill_(200.0); });
}

TEST_F(Equivalence, AClosedGateIsTheStateHeadsAlone) {
  const auto with_one_head = [](ModelConfig& c) {
    c.attention = {.heads = 1, .kv_heads = 1, .head_size = 64};
    c.fusion = {.mode = FusionMode::gated, .alpha = Alpha::fixed};
  };
  expect_same(with(with_one_head), with([](ModelConfig& c) { c.attention.heads = 0; }),
              [](const Part& gated, const Part& states) {
                gated["fusion.gate_bias"].fill_(-200.0);
                gated["fusion.lift"].zero_().add_(at::eye(64));
                states["output.state.weight"].copy_(gated["output.attention.weight"]);
              });
}

TEST_F(Equivalence, AMiddleHeadWithoutModulationRepeatsItsAttentionHead) {
  const auto key = [](ModelConfig& c) { c.middle = {.mode = MiddleMode::key, .heads = 4, .norm = false}; };
  expect_same(without_norm(key), without_norm([](ModelConfig&) {}), [](const Part& middle, const Part& none) {
    middle["middle.key.beta"].zero_();
    none["output.attention.weight"].add_(middle["output.middle.weight"]);
  });
}

TEST_F(Equivalence, PatternsOfOneLetterAreTheParents) {
  const LanguageModel attention = make(with([](ModelConfig&c) { c.pattern = "a"; })),
                      state = make(with([](ModelConfig&c) { c.pattern = "s"; }));
  EXPECT_TRUE(attention.hidden(ids).equal(make(transformer()).hidden(ids)));
  EXPECT_TRUE(state.hidden(ids).equal(make(with([](ModelConfig& c) { c.attention.heads = 0; })).hidden(ids)));
}

TEST_F(Equivalence, ValuesThatTakeNothingFromAttentionAreTheLayersOwn) {
  expect_same(with([](ModelConfig& c) { c.state.value = StateValue::attention; }), tiny(),
              [](const Part& both, const Part&) { both["state.from_attention"].zero_(); });
}

// Slices of 64 channels of attention's keys and values, each for two state heads; and no token shift, which
// shared ones do not have.
TEST_F(Equivalence, SharedKeysAndValuesAreOwnOnesWithTheSameMatrices) {
  const auto heads = [](StateKv kv) {
    return with([&](ModelConfig& c) {
      c.attention = {.heads = 8, .kv_heads = 8, .head_size = 16};
      c.state.heads = 4;
      c.state.kv = kv;
    });
  };
  expect_same(heads(StateKv::shared), heads(StateKv::own), [](const Part& shared, const Part& own) {
    for (const Part& part : {shared, own}) part["state.mix"].narrow(0, 2, 2).zero_();
    for (const std::string name : {"key.weight", "value.weight"})
      own["state." + name].copy_(
          shared["attention." + name].view({2, 1, 64, 64}).expand({2, 2, 64, 64}).reshape({256, 64}));
  });
}

TEST_F(Equivalence, GroupedKeysAndValuesAreRepeatedOnes) {
  expect_same(
      transformer(), with([](ModelConfig& c) { c.attention.kv_heads = 4, c.state.heads = 0; }),
      [](const Part& grouped, const Part& all) {
        for (const std::string name : {"attention.key.weight", "attention.value.weight"})
          all[name].copy_(grouped[name].view({2, 1, 16, 64}).expand({2, 2, 16, 64}).reshape({64, 64}));
      });
}

}  // namespace
}  // namespace wuneng::model
