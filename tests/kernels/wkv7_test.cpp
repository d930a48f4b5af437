#include "kernels/wkv7/wkv7.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/check.h"
#include "kernels/wkv7/cpu.h"
#include "kernels/wkv7/reference.h"
#include "tests/kernels/compare.h"

namespace wuneng::kernels::tests {
namespace {

constexpr double decay_bound = 0.6065306597126334;

// r, log_decay, k, v, a, b as RWKV-7 makes them: a = -kappa, b = kappa * alpha with |kappa| = 1.
std::vector<at::Tensor> realistic(std::int64_t B, std::int64_t T, std::int64_t H, std::int64_t N,
                                  std::uint64_t seed = 1) {
  const auto draw = [&](std::uint64_t i) { return normal({B, T, H, N}, 100 * seed + i); };
  const at::Tensor kappa = draw(4).div(draw(4).norm(2, -1, true)), alpha = draw(5).sigmoid();
  return {draw(0),         draw(1).mul(2).sigmoid().mul(-decay_bound), draw(2).mul(0.3), draw(3), kappa.neg(),
          kappa.mul(alpha)};
}

at::Tensor table(const std::vector<std::int64_t>& starts) {
  return starts.empty() ? at::Tensor() : at::tensor(starts);
}

struct Case {
  std::int64_t B, T, H, N;
  bool state = false;
  std::vector<std::int64_t> starts = {};
};

Op fused(const Case& c) {
  return [c](const auto& in) {
    const Wkv7Output out =
        wkv7(in[0], in[1], in[2], in[3], in[4], in[5], c.state ? in[6] : at::Tensor(), table(c.starts));
    return std::vector{out.y, out.final_state};
  };
}

void expect_reference(const Case& c, std::vector<at::Tensor> in, double double_bar = 1e-11,
                      double float_bar = 1e-5) {
  if (c.state) in.push_back(normal({c.B, c.H, c.N, c.N}, 77));
  const at::Tensor initial = c.state ? in[6] : at::Tensor(), starts = table(c.starts);
  const Wkv7Output expected = wkv7_reference(in[0], in[1], in[2], in[3], in[4], in[5], initial, starts);
  const Wkv7Gradients slopes =
      wkv7_reference_backward(normal(expected.y.sizes(), 1001), normal(expected.final_state.sizes(), 1002),
                              in[0], in[1], in[2], in[3], in[4], in[5], initial, starts);
  std::vector<at::Tensor> gradients{slopes.r, slopes.log_decay, slopes.k, slopes.v, slopes.a, slopes.b};
  if (c.state) gradients.push_back(slopes.initial_state);
  for (const auto& [dtype, bar] : {std::pair{at::kDouble, double_bar}, {at::kFloat, float_bar}}) {
    std::vector<at::Tensor> cast;
    for (const at::Tensor& x : in) cast.push_back(x.to(dtype));
    at::set_num_threads(1);
    const Derivatives one = differentiate(fused(c), cast);
    at::set_num_threads(2);
    const Derivatives two = differentiate(fused(c), cast);
    EXPECT_LT(error_ratio(one.outputs[0], expected.y), bar);
    EXPECT_LT(error_ratio(one.outputs[1], expected.final_state), bar);
    for (std::size_t i = 0; i < gradients.size(); ++i) {
      EXPECT_LT(error_ratio(one.gradients[i], gradients[i]), bar)
          << "gradient of input " << i << ", T = " << c.T;
      EXPECT_TRUE(one.gradients[i].equal(two.gradients[i])) << "threads change gradient " << i;
    }
    EXPECT_TRUE(one.outputs[0].equal(two.outputs[0]) && one.outputs[1].equal(two.outputs[1]))
        << "threads change the output";
  }
}

class Wkv7Lengths : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(Tokens, Wkv7Lengths,
                         testing::Values(1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 200, 1000));

TEST_P(Wkv7Lengths, IsTheRecurrenceForwardAndBackward) {
  const std::int64_t T = GetParam();
  if (T < 1000)  // the reference is slow
    for (const bool state : {false, true}) expect_reference({2, T, 3, 64, state}, realistic(2, T, 3, 64));
  expect_reference({1, T, 1, 64, true}, realistic(1, T, 1, 64));
  expect_reference({1, T, 2, 128, true}, realistic(1, T, 2, 128));
}

TEST(Wkv7, DocumentsOfAnyLengthResetTheState) {
  // Row 0: documents of 1, 16, 17, 100 tokens from its start on; row 1 goes on with its state for 70 tokens.
  const Case c{2, 134, 2, 64, true, {0, 1, 17, 34, 134 + 70, 134 + 71}};
  expect_reference(c, realistic(2, 134, 2, 64));
  std::vector<at::Tensor> in = realistic(2, 134, 2, 64);
  in.push_back(normal({2, 2, 64, 64}, 5));
  const Derivatives d = differentiate(fused(c), in);
  EXPECT_EQ(d.gradients[6][0].abs().max().item<double>(), 0.0)
      << "a document's start drops the initial state";
  EXPECT_GT(d.gradients[6][1].abs().max().item<double>(), 0.0);
}

TEST(Wkv7, DocumentsEqualSeparateSequences) {
  const std::vector<at::Tensor> in = realistic(1, 100, 2, 64);
  const at::Tensor y = fused({1, 100, 2, 64, false, {33, 34}})(in)[0];
  std::vector<at::Tensor> parts;
  for (const auto& [begin, length] : {std::pair<std::int64_t, std::int64_t>{0, 33}, {33, 1}, {34, 66}}) {
    std::vector<at::Tensor> part;
    for (const at::Tensor& x : in) part.push_back(x.narrow(1, begin, length).contiguous());
    parts.push_back(fused({1, length, 2, 64})(part)[0]);
  }
  EXPECT_TRUE(y.equal(at::cat(parts, 1)));
}

// Each document with a state of its own: outputs, final states and all gradients are those of separate calls.
TEST(Wkv7, StatesPerDocumentEqualSeparateSequences) {
  const std::vector<std::int64_t> starts{1, 17, 34, 70,
                                         90};  // rows of 70: the fourth is a row's beginning too
  const std::vector<std::pair<std::int64_t, std::int64_t>> documents{{0, 1},   {1, 16},  {17, 17},
                                                                     {34, 36}, {70, 20}, {90, 50}};
  std::vector<at::Tensor> in = realistic(2, 70, 2, 64);
  in.push_back(normal({6, 2, 64, 64}, 5));
  const Op together = [&](const auto& x) {
    const Wkv7Output out = wkv7(x[0], x[1], x[2], x[3], x[4], x[5], x[6], table(starts), StatesPer::document);
    return std::vector{out.y, out.final_state};
  };
  const Op apart = [&](const auto& x) {
    std::vector<at::Tensor> y, final_states;
    for (std::size_t d = 0; d < documents.size(); ++d) {
      const auto [begin, length] = documents[d];
      std::vector<at::Tensor> part;
      for (std::size_t i = 0; i < 6; ++i)
        part.push_back(x[i].reshape({1, 140, 2, 64}).narrow(1, begin, length).contiguous());
      part.push_back(x[6].narrow(0, static_cast<std::int64_t>(d), 1).contiguous());
      const std::vector<at::Tensor> out = fused({1, length, 2, 64, true})(part);
      y.push_back(out[0]);
      final_states.push_back(out[1]);
    }
    return std::vector{at::cat(y, 1).reshape({2, 70, 2, 64}), at::cat(final_states, 0)};
  };
  expect_equal(together, apart, in);
}

// bfloat16 on the CPU: the recurrence on the rounded inputs, rounded once at the end.
TEST(Wkv7, Bfloat16IsComputedInFloat32) {
  std::vector<at::Tensor> rounded, in;
  for (const at::Tensor& x : realistic(1, 70, 2, 64)) {
    rounded.push_back(x.to(at::kBFloat16));
    in.push_back(rounded.back().to(at::kDouble));
  }
  rounded.push_back(normal({1, 2, 64, 64}, 5, at::kFloat));
  in.push_back(rounded.back().to(at::kDouble));
  const Derivatives got = differentiate(fused({1, 70, 2, 64, true}), rounded),
                    expected = differentiate(fused({1, 70, 2, 64, true}), in);
  EXPECT_EQ(got.outputs[0].scalar_type(), at::kBFloat16);
  EXPECT_EQ(got.outputs[1].scalar_type(), at::kFloat);
  EXPECT_LT(error_ratio(got.outputs[0], expected.outputs[0]), 2.5e-3);
  EXPECT_LT(error_ratio(got.outputs[1], expected.outputs[1]), 1e-5);
  for (std::size_t i = 0; i < in.size(); ++i) {
    EXPECT_EQ(got.gradients[i].scalar_type(), rounded[i].scalar_type());
    EXPECT_LT(error_ratio(got.gradients[i], expected.gradients[i]), 4e-3) << "gradient of input " << i;
  }
}

// One sequence and head in the middle of a batch: its own outputs are written whole, and nothing beside them.
TEST(Wkv7, WritesAllOfItsOutputsAndNothingElse) {
  constexpr std::int64_t T = 83, H = 3, N = 64, guard = 64;
  const std::vector<at::Tensor> in = realistic(1, T, H, N);
  std::vector<std::vector<double>> out(7, std::vector<double>(T * H * N + 2 * guard, std::nan("")));
  std::vector<double> kept(wkv7_kept_states(T) * N * N + 2 * guard, std::nan("")),
      final_state(N * N + 2 * guard, std::nan("")), d_initial(N * N + 2 * guard, std::nan(""));
  const auto at = [&](std::size_t i) { return in[i].const_data_ptr<double>() + N; };  // head 1
  const Wkv7Inputs<double> inputs{at(0), at(1), at(2), at(3), at(4), at(5), nullptr};
  const auto to = [&](std::size_t i) { return out[i].data() + guard + N; };
  wkv7_forward_cpu(inputs, {T, H, N}, 0, N, to(6), final_state.data() + guard, kept.data() + guard);
  wkv7_backward_cpu(inputs, {T, H, N}, kept.data() + guard, in[0].const_data_ptr<double>() + N, nullptr,
                    {to(0), to(1), to(2), to(3), to(4), to(5), d_initial.data() + guard});
  for (const std::vector<double>& tensor : out)
    for (std::int64_t i = 0; i < std::ssize(tensor); ++i) {
      const std::int64_t element = i - guard;
      const bool own = element >= 0 && element < T * H * N && element / N % H == 1;
      ASSERT_EQ(std::isnan(tensor[i]), !own) << "element " << element;
    }
  for (const std::vector<double>* states : {&kept, &final_state, &d_initial})
    for (std::int64_t i = 0; i < std::ssize(*states); ++i)
      ASSERT_EQ(std::isnan((*states)[i]), i < guard || i >= std::ssize(*states) - guard) << i;
}

TEST(Wkv7, AnySplitCarriesTheStateToTheSameBits) {
  std::vector<at::Tensor> in;
  for (const at::Tensor& x : realistic(2, 150, 2, 64)) in.push_back(x.to(at::kFloat));
  const std::vector<at::Tensor> whole = fused({2, 150, 2, 64})(in);
  for (const std::int64_t split : {1, 16, 64, 149}) {
    at::Tensor state = at::zeros({2, 2, 64, 64}, at::kFloat);
    std::vector<at::Tensor> parts;
    for (const auto& [begin, length] : {std::pair{std::int64_t{0}, split}, {split, 150 - split}}) {
      std::vector<at::Tensor> part;
      for (const at::Tensor& x : in) part.push_back(x.narrow(1, begin, length).contiguous());
      part.push_back(state);
      const std::vector<at::Tensor> out = fused({2, length, 2, 64, true})(part);
      parts.push_back(out[0]);
      state = out[1];
    }
    EXPECT_TRUE(at::cat(parts, 1).equal(whole[0])) << split;
    EXPECT_TRUE(state.equal(whole[1])) << split;
  }
}

TEST(Wkv7, RepeatedTokensWithFullInContextRate) {  // what breaks a careless inverse
  for (const std::int64_t T : {16, 17, 64}) {
    std::vector<at::Tensor> in;
    for (const at::Tensor& x : realistic(1, 1, 1, 64)) in.push_back(x.expand({1, T, 1, 64}).contiguous());
    in[5] = in[4].neg();  // alpha = 1
    expect_reference({1, T, 1, 64, true}, in);
  }
}

// alpha = 1 + w, the most that state heads with negative eigenvalues ask for: what is removed comes back with
// its sign turned. With one key all along, too, where a transition undoes the one before.
TEST(Wkv7, TransitionsThatTurnSigns) {
  for (const std::int64_t key : {64, 1}) {  // tokens with one of their own
    std::vector<at::Tensor> in = realistic(1, 130, 1, 64);
    in[4] =
        in[4].narrow(1, 0, key).expand({1, key, 1, 64}).repeat({1, 130 / key + 1, 1, 1}).narrow(1, 0, 130);
    in[5] = in[4].neg().mul(in[1].exp().add(1.0));
    expect_reference({1, 130, 1, 64, true}, in);
  }
}

TEST(Wkv7, DecayAtItsBoundsForAWholeSequence) {
  for (const double bound : {0.0, -decay_bound}) {
    std::vector<at::Tensor> in = realistic(1, 130, 1, 64);
    in[1].fill_(bound);
    expect_reference({1, 130, 1, 64, true}, in);
  }
}

TEST(Wkv7, ZeroKeysZeroRatesAndLargeValues) {
  std::vector<at::Tensor> in = realistic(1, 70, 1, 64);
  for (const std::size_t i : {2, 4, 5}) {
    std::vector<at::Tensor> zeroed = in;
    zeroed[i] = at::zeros({1, 70, 1, 64}, at::kDouble);
    expect_reference({1, 70, 1, 64, true}, zeroed);
  }
  in[2] = in[2].mul(64);
  in[3] = in[3].mul(64);
  expect_reference({1, 70, 1, 64, true}, in);
}

TEST(Wkv7, LongSequencesDoNotDrift) {
  const std::int64_t T = 32768;
  std::vector<at::Tensor> in = realistic(1, T, 1, 64), cast;
  for (const at::Tensor& x : in) cast.push_back(x.to(at::kFloat));
  const at::Tensor y = fused({1, T, 1, 64})(cast)[0],
                   expected = wkv7_reference(in[0], in[1], in[2], in[3], in[4], in[5]).y;
  const auto quarter = [&](std::int64_t i) {
    return error_ratio(y.narrow(1, i * T / 4, T / 4), expected.narrow(1, i * T / 4, T / 4));
  };
  EXPECT_LT(quarter(3), 1e-5);
  EXPECT_LT(quarter(3), 3 * quarter(0));
}

TEST(Wkv7, GradientsFlowThroughEitherOutputAlone) {
  const std::vector<at::Tensor> in = realistic(1, 20, 1, 64);
  for (const int which : {0, 1}) {
    const Derivatives d = differentiate(
        [&](const auto& leaves) {
          return std::vector{fused({1, 20, 1, 64})(leaves)[which]};
        },
        in);
    const at::Tensor cotangent = normal(d.outputs[0].sizes(), 1001);
    const Wkv7Gradients expected =
        wkv7_reference_backward(which == 0 ? cotangent : at::Tensor(), which == 1 ? cotangent : at::Tensor(),
                                in[0], in[1], in[2], in[3], in[4], in[5]);
    EXPECT_LT(error_ratio(d.gradients[3], expected.v), 1e-11);
    EXPECT_LT(error_ratio(d.gradients[1], expected.log_decay), 1e-11);
    EXPECT_LT(error_ratio(d.gradients[0], expected.r), 1e-11);
  }
}

TEST(Wkv7, MisuseIsRefusedWithTheValues) {
  const std::vector<at::Tensor> in = realistic(1, 4, 2, 64);
  const auto message = [&](std::size_t i, const at::Tensor& bad, const at::Tensor& state = {},
                           const at::Tensor& starts = {}) -> std::string {
    std::vector<at::Tensor> x = in;
    x[i] = bad;
    try {
      wkv7(x[0], x[1], x[2], x[3], x[4], x[5], state, starts);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing";
  };
  using testing::HasSubstr;
  EXPECT_THAT(message(0, normal({1, 4, 2, 32}, 1)), HasSubstr("N = 32"));
  EXPECT_THAT(message(2, normal({1, 5, 2, 64}, 1)), HasSubstr("[1, 5, 2, 64]"));
  EXPECT_THAT(message(3, in[3].to(at::kFloat)), HasSubstr("Float"));
  EXPECT_THAT(message(0, in[0].to(at::kBFloat16)), HasSubstr("input 1"));
  EXPECT_THAT(message(0, in[0], normal({1, 2, 64, 64}, 1, at::kFloat)),
              HasSubstr("initial_state has dtype Float"));
  EXPECT_THAT(message(4, normal({1, 2, 4, 64}, 1).transpose(1, 2)), HasSubstr("not contiguous"));
  EXPECT_THAT(message(0, in[0], normal({2, 2, 64, 64}, 1)), HasSubstr("initial_state"));
  EXPECT_THAT(message(0, in[0], {}, at::tensor({std::int64_t{4}})), HasSubstr("document_starts[0] = 4"));
  EXPECT_THAT(message(0, in[0], {}, at::tensor({std::int64_t{2}, std::int64_t{1}})),
              HasSubstr("does not increase"));
}

// The yardstick itself, against the slopes of its own forward pass.
TEST(Wkv7Reference, BackwardIsTheSlopeOfForward) {
  const std::int64_t B = 2, T = 6, H = 1, N = 4;
  std::vector<at::Tensor> in = realistic(B, T, H, N);
  in.push_back(normal({B, H, N, N}, 9));
  const at::Tensor starts = at::tensor({std::int64_t{3}, std::int64_t{6}});
  const at::Tensor dy = normal({B, T, H, N}, 11), ds = normal({B, H, N, N}, 12);
  const auto value = [&] {
    const Wkv7Output out = wkv7_reference(in[0], in[1], in[2], in[3], in[4], in[5], in[6], starts);
    return out.y.mul(dy).sum().item<double>() + out.final_state.mul(ds).sum().item<double>();
  };
  const Wkv7Gradients g =
      wkv7_reference_backward(dy, ds, in[0], in[1], in[2], in[3], in[4], in[5], in[6], starts);
  const std::vector<at::Tensor> gradients{g.r, g.log_decay, g.k, g.v, g.a, g.b, g.initial_state};
  for (std::size_t i = 0; i < in.size(); ++i) {
    auto* x = in[i].mutable_data_ptr<double>();
    const auto* slope = gradients[i].const_data_ptr<double>();
    const double scale = gradients[i].abs().max().item<double>();
    for (std::int64_t j = 0; j < in[i].numel(); ++j) {
      const double kept = x[j], h = 1e-5;
      x[j] = kept + h;
      const double above = value();
      x[j] = kept - h;
      const double below = value();
      x[j] = kept;
      EXPECT_NEAR((above - below) / (2 * h), slope[j], 1e-7 * std::max(1.0, scale))
          << "input " << i << " element " << j;
    }
  }
}

}  // namespace
}  // namespace wuneng::kernels::tests
