// The device code around WKV-7, lane by lane: preparation, epilogue and value mix against their definitions
// in float64, whose gradients are central differences.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>

#include "kernels/device/slice_sum.cuh"
#include "kernels/state_head.cuh"
#include "tests/kernels/emulated/tensors.h"

namespace wuneng::kernels::tests {
namespace {

constexpr double eps = 64e-5;

// The sanitizers look at kernels; in the definitions, which the differences run thousands of times, they
// would take most of the time.
#define UNCHECKED __attribute__((no_sanitize("thread", "address")))

UNCHECKED double logistic(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// A head of one token: the channels of each tensor.
using Head = std::vector<Values>;
using Definition = void (*)(const Head& in, Head& out);

// decay_logit, rate_logit, k, removal, replacement -> log_decay, k', a, b
UNCHECKED void preparation(const Head& in, Head& out) {
  const double *decay = in[0].data(), *rate = in[1].data(), *k = in[2].data(), *removal = in[3].data(),
               *replacement = in[4].data();
  double *log_decay = out[0].data(), *new_k = out[1].data(), *a = out[2].data(), *b = out[3].data();
  const std::size_t N = in[0].size();
  double square = 0.0;
  for (std::size_t i = 0; i < N; ++i) square += k[i] * removal[i] * k[i] * removal[i];
  const double norm = std::sqrt(square) > 1e-12 ? std::sqrt(square) : 1e-12;
  for (std::size_t i = 0; i < N; ++i) {
    const double alpha = logistic(rate[i]), kappa = k[i] * removal[i] / norm;
    log_decay[i] = -std::exp(-0.5) * logistic(decay[i]);
    new_k[i] = k[i] * (1.0 + (alpha - 1.0) * replacement[i]);
    a[i] = -kappa;
    b[i] = kappa * alpha;
  }
}

// y, r, k, v, gate, bonus, weight, bias -> out
UNCHECKED void epilogue(const Head& in, Head& out) {
  const double *y = in[0].data(), *r = in[1].data(), *k = in[2].data(), *v = in[3].data(),
               *gate = in[4].data(), *bonus = in[5].data(), *weight = in[6].data(), *bias = in[7].data();
  double* result = out[0].data();
  const std::size_t N = in[0].size();
  double mean = 0.0, variance = 0.0, product = 0.0;
  for (std::size_t i = 0; i < N; ++i) mean += y[i] / static_cast<double>(N);
  for (std::size_t i = 0; i < N; ++i) {
    variance += (y[i] - mean) * (y[i] - mean) / static_cast<double>(N);
    product += r[i] * k[i] * bonus[i];
  }
  for (std::size_t i = 0; i < N; ++i) {
    const double normal = (y[i] - mean) / std::sqrt(variance + eps);
    result[i] = (normal * weight[i] + bias[i] + product * v[i]) * gate[i];
  }
}

// v, first, logit -> out
UNCHECKED void value_residual(const Head& in, Head& out) {
  const double share = logistic(in[2][0]);
  out[0][0] = (1.0 - share) * in[0][0] + share * in[1][0];
}

UNCHECKED double dot(const double* x, const double* y, std::size_t n) {
  double sum = 0.0;
  for (std::size_t i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// The change of sum(cotangents * outputs) with each input.
Head differences(Definition definition, Head in, const Head& cotangents) {
  constexpr double step = 1e-5;
  Head out = cotangents, gradient = in;
  const auto loss = [&] {
    definition(in, out);
    double sum = 0.0;
    for (std::size_t q = 0; q < out.size(); ++q)
      sum += dot(out[q].data(), cotangents[q].data(), out[q].size());
    return sum;
  };
  for (std::size_t q = 0; q < in.size(); ++q)
    for (std::size_t i = 0; i < in[q].size(); ++i) {
      const double x = in[q][i];
      in[q][i] = x + step;
      const double above = loss();
      in[q][i] = x - step;
      gradient[q][i] = (above - loss()) / (2.0 * step);
      in[q][i] = x;
    }
  return gradient;
}

struct Shape {
  std::int64_t tokens, H, N;

  StateHeadSizes sizes() const { return {tokens, H, N}; }
  std::size_t count() const { return static_cast<std::size_t>(tokens * H * N); }
  emulator::Grid grid() const {
    return {static_cast<unsigned>(state_head_slices(tokens)), static_cast<unsigned>(H)};
  }
};

template <class Element>
using Inputs = std::vector<std::unique_ptr<Input<Element>>>;
template <class Element>
using Outputs = std::vector<std::unique_ptr<GuardedBuffer<Element>>>;

template <class Element>
Outputs<Element> outputs(std::size_t number, std::size_t count) {
  Outputs<Element> out;
  for (std::size_t q = 0; q < number; ++q) out.push_back(std::make_unique<GuardedBuffer<Element>>(count));
  return out;
}

// `number` tensors [tokens, H, N], the last `parameters` of them [H, N].
template <class Element>
Inputs<Element> inputs(const Shape& shape, int number, int parameters, unsigned seed) {
  Inputs<Element> in;
  for (int q = 0; q < number; ++q) {
    const std::size_t count = q < number - parameters ? shape.count() : shape.H * shape.N;
    in.push_back(std::make_unique<Input<Element>>(normal_values(count, seed + q)));
  }
  return in;
}

// What the definition says of all heads of all tokens; gradients of parameters are summed over tokens.
struct Expected {
  Head out, gradients;
};

template <class Element>
Expected expected(const Shape& shape, Definition definition, const Inputs<Element>& in,
                  const Inputs<Element>& cotangents) {
  Expected e{Head(cotangents.size(), Values(shape.count())), {}};
  for (const auto& x : in) e.gradients.emplace_back(x->values.size());
  for (std::int64_t row = 0; row < shape.tokens * shape.H; ++row) {
    const auto place = [&](std::size_t size) {
      return (size == shape.count() ? row : row % shape.H) * shape.N;
    };
    const auto head_of = [&](const Inputs<Element>& tensors) {
      Head head;
      for (const auto& x : tensors) {
        const auto begin = x->values.begin() + place(x->values.size());
        head.emplace_back(begin, begin + shape.N);
      }
      return head;
    };
    Head out = head_of(cotangents);
    definition(head_of(in), out);
    const Head gradient = differences(definition, head_of(in), head_of(cotangents));
    for (std::size_t q = 0; q < out.size(); ++q)
      std::copy(out[q].begin(), out[q].end(), e.out[q].begin() + row * shape.N);
    for (std::size_t q = 0; q < gradient.size(); ++q)
      for (std::int64_t i = 0; i < shape.N; ++i)
        e.gradients[q][place(e.gradients[q].size()) + i] += gradient[q][i];
  }
  return e;
}

// Partial sums [slices, count, H, N] added up into `count` tensors [H, N].
Head added(const GuardedBuffer<float>& partial, const Shape& shape, int count) {
  const auto size = static_cast<std::size_t>(shape.H * shape.N);
  Head sums(count, Values(size));
  for (std::size_t i = 0; i < partial.size(); ++i) sums[i / size % count][i % size] += partial[i];
  return sums;
}

template <class Element>
void expect_close(const Outputs<Element>& out, const Head& want, double bar, const char* what) {
  for (std::size_t q = 0; q < out.size(); ++q)
    EXPECT_LT(relative_error(values_of(*out[q]), want[q]), bar) << what << " " << q;
}

// Parameters' gradients stay in fp32 until they are added up.
void expect_close(const Head& sums, const Head& want, std::size_t first, double bar) {
  for (std::size_t q = 0; q < sums.size(); ++q)
    EXPECT_LT(relative_error(sums[q], want[first + q]), bar) << "gradient of parameter " << q;
}

// The same bits with every seed.
class SameBits {
 public:
  void expect(const GuardedBuffer<float>& partial) {
    if (first_.empty()) first_ = partial.values();
    EXPECT_TRUE(same_bits(partial, first_)) << "the order of lanes changes a sum";
  }

 private:
  std::vector<float> first_;
};

// ------------------------------------------------------------------- preparation ----

template <class Element>
Preparation<Element> preparation_of(const Inputs<Element>& in, const Outputs<Element>& out) {
  Preparation<Element> p{
      in[0]->data(), in[1]->data(), in[2]->data(), in[3]->data(), in[4]->data(), {}, {}, {}, {}};
  if (!out.empty())
    p.log_decay = out[0]->data(), p.new_k = out[1]->data(), p.a = out[2]->data(), p.b = out[3]->data();
  return p;
}

template <class Element, int N>
void prepare_backward(const Shape& shape, const Inputs<Element>& in, const std::array<const Element*, 4>& d,
                      const Outputs<Element>& out, GuardedBuffer<float>& partial, unsigned seed) {
  const PreparationGradient<Element> g{d[0],           d[1],           d[2],          d[3],
                                       out[0]->data(), out[1]->data(), out[2]->data()};
  const emulator::Statistics statistics =
      emulator::launch(state_head_prepare_backward<Element, N>, shape.grid(), state_head_threads,
                       sizeof(HeadSums<Element, N, preparation_sums>), {.seed = seed},
                       preparation_of<Element>(in, {}), g, shape.sizes(), partial.data());
  EXPECT_EQ(statistics.barriers_per_block, 1);
}

template <class Element, int N>
void expect_preparation(std::int64_t tokens, std::int64_t H) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << H << " heads of " << N);
  const Shape shape{tokens, H, N};
  const auto in = inputs<Element>(shape, 5, 2, 1), d = inputs<Element>(shape, 4, 0, 20);
  const Expected want = expected(shape, preparation, in, d);
  SameBits same;
  for (int seed = 0; seed < emulator::seeds(); ++seed) {
    const auto out = outputs<Element>(4, shape.count()), gradients = outputs<Element>(3, shape.count());
    emulator::launch(state_head_prepare<Element, N>, shape.grid(), state_head_threads, 0,
                     {.seed = static_cast<unsigned>(seed)}, preparation_of(in, out), shape.sizes());
    expect_close(out, want.out, output_bar<Element>, "output");
    GuardedBuffer<float> partial(state_head_slices(tokens) * preparation_sums * H * N);
    prepare_backward<Element, N>(shape, in, {d[0]->data(), d[1]->data(), d[2]->data(), d[3]->data()},
                                 gradients, partial, seed);
    expect_close(gradients, want.gradients, gradient_bar<Element>, "gradient");
    expect_close(added(partial, shape, preparation_sums), want.gradients, 3, 1e-5);
    same.expect(partial);
  }
}

TEST(StateHeadDevice, PreparationIsItsDefinition) {
  expect_preparation<float, 64>(1, 1);
  expect_preparation<float, 64>(67, 2);
  expect_preparation<float, 128>(5, 3);
}

TEST(StateHeadDevice, PreparationInBf16IsItsDefinition) {
  expect_preparation<bf16, 64>(1, 3);
  expect_preparation<bf16, 64>(67, 2);
  expect_preparation<bf16, 128>(5, 2);
}

TEST(StateHeadDevice, PreparationWithoutSomeGradientsTakesThemAsZero) {
  const Shape shape{9, 2, 64};
  const auto in = inputs<float>(shape, 5, 2, 1), d = inputs<float>(shape, 4, 0, 20);
  const Input<float> zero(Values(shape.count()));
  for (std::size_t none = 0; none < 4; ++none) {
    std::array<const float*, 4> with_null{}, with_zero{};
    for (std::size_t q = 0; q < 4; ++q) {
      with_null[q] = q == none ? nullptr : d[q]->data();
      with_zero[q] = q == none ? zero.data() : d[q]->data();
    }
    const auto a = outputs<float>(3, shape.count()), b = outputs<float>(3, shape.count());
    GuardedBuffer<float> sums(preparation_sums * 2 * 64), wanted(preparation_sums * 2 * 64);
    prepare_backward<float, 64>(shape, in, with_null, a, sums, 1);
    prepare_backward<float, 64>(shape, in, with_zero, b, wanted, 1);
    for (std::size_t q = 0; q < 3; ++q) EXPECT_TRUE(same_bits(*a[q], b[q]->values())) << "gradient " << q;
    EXPECT_TRUE(same_bits(sums, wanted.values()));
  }
}

TEST(StateHeadDevice, ZeroKeysAndSaturatedLogitsStayFinite) {
  const Shape shape{3, 1, 64};
  const auto d = inputs<bf16>(shape, 4, 0, 20);
  Inputs<bf16> in = inputs<bf16>(shape, 5, 2, 1);
  in[0] = std::make_unique<Input<bf16>>(Values(shape.count(), 1e4));
  in[1] = std::make_unique<Input<bf16>>(Values(shape.count(), -1e4));
  in[2] = std::make_unique<Input<bf16>>(Values(shape.count(), 0.0));
  const auto out = outputs<bf16>(4, shape.count()), gradients = outputs<bf16>(3, shape.count());
  GuardedBuffer<float> partial(preparation_sums * 64);
  emulator::launch(state_head_prepare<bf16, 64>, shape.grid(), state_head_threads, 0, {.seed = 1},
                   preparation_of(in, out), shape.sizes());
  prepare_backward<bf16, 64>(shape, in, {d[0]->data(), d[1]->data(), d[2]->data(), d[3]->data()}, gradients,
                             partial, 1);
  for (const auto& x : out)
    for (const double value : values_of(*x)) EXPECT_TRUE(std::isfinite(value));
  for (const auto& x : gradients)
    for (const double value : values_of(*x)) EXPECT_TRUE(std::isfinite(value));
  for (const double value : values_of(partial)) EXPECT_TRUE(std::isfinite(value));
  EXPECT_NEAR(values_of(*out[0])[0], -std::exp(-0.5), 2e-3);
  EXPECT_EQ(values_of(*out[2])[0], 0.0);
}

// ---------------------------------------------------------------------- epilogue ----

template <class Element>
Epilogue<Element> epilogue_of(const Inputs<Element>& in) {
  return {in[0]->data(), in[1]->data(), in[2]->data(),
          in[3]->data(), in[4]->data(), in[5]->data(),
          in[6]->data(), in[7]->data(), eps};
}

template <class Element, int N>
void expect_epilogue(std::int64_t tokens, std::int64_t H) {
  SCOPED_TRACE(testing::Message() << tokens << " tokens, " << H << " heads of " << N);
  const Shape shape{tokens, H, N};
  const auto in = inputs<Element>(shape, 8, 3, 40), d = inputs<Element>(shape, 1, 0, 60);
  const Expected want = expected(shape, epilogue, in, d);
  SameBits same;
  for (int seed = 0; seed < emulator::seeds(); ++seed) {
    const emulator::Options options{.seed = static_cast<unsigned>(seed)};
    const auto out = outputs<Element>(1, shape.count()), dx = outputs<Element>(5, shape.count());
    emulator::launch(state_head_finish<Element, N>, shape.grid(), state_head_threads, 0, options,
                     epilogue_of(in), shape.sizes(), out[0]->data());
    expect_close(out, want.out, output_bar<Element>, "output");
    GuardedBuffer<float> partial(state_head_slices(tokens) * epilogue_sums * H * N);
    const EpilogueGradient<Element> g{d[0]->data(),  dx[0]->data(), dx[1]->data(),
                                      dx[2]->data(), dx[3]->data(), dx[4]->data()};
    const emulator::Statistics statistics =
        emulator::launch(state_head_finish_backward<Element, N>, shape.grid(), state_head_threads,
                         sizeof(HeadSums<Element, N, epilogue_sums>), options, epilogue_of(in), g,
                         shape.sizes(), partial.data());
    EXPECT_EQ(statistics.barriers_per_block, 1);
    expect_close(dx, want.gradients, gradient_bar<Element>, "gradient");
    expect_close(added(partial, shape, epilogue_sums), want.gradients, 5, 1e-5);
    same.expect(partial);
  }
}

TEST(StateHeadDevice, EpilogueIsItsDefinition) {
  expect_epilogue<float, 64>(1, 1);
  expect_epilogue<float, 64>(67, 2);
  expect_epilogue<float, 128>(5, 3);
}

TEST(StateHeadDevice, EpilogueInBf16IsItsDefinition) {
  expect_epilogue<bf16, 64>(1, 3);
  expect_epilogue<bf16, 64>(67, 2);
  expect_epilogue<bf16, 128>(5, 2);
}

// --------------------------------------------------------------------- value mix ----

template <class Element>
void expect_value_mix(std::size_t count) {
  const Shape shape{static_cast<std::int64_t>(count), 1, 1};
  const auto in = inputs<Element>(shape, 3, 0, 70), d = inputs<Element>(shape, 1, 0, 80);
  const Expected want = expected(shape, value_residual, in, d);
  const auto blocks = static_cast<unsigned>(count / value_mix_threads / device::pack_width<Element> + 1);
  const ValueMix<Element> m{in[0]->data(), in[1]->data(), in[2]->data()};
  for (int seed = 0; seed < emulator::seeds(); ++seed) {
    const emulator::Options options{.seed = static_cast<unsigned>(seed)};
    const auto out = outputs<Element>(1, count), dx = outputs<Element>(3, count);
    emulator::launch(value_mix<Element>, {blocks}, value_mix_threads, 0, options, m,
                     static_cast<std::int64_t>(count), out[0]->data());
    expect_close(out, want.out, output_bar<Element>, "output");
    const ValueMixGradient<Element> g{d[0]->data(), dx[0]->data(), dx[1]->data(), dx[2]->data()};
    emulator::launch(value_mix_backward<Element>, {blocks}, value_mix_threads, 0, options, m, g,
                     static_cast<std::int64_t>(count));
    expect_close(dx, want.gradients, gradient_bar<Element>, "gradient");
  }
}

TEST(StateHeadDevice, ValueMixIsItsDefinition) {
  for (const std::size_t count : {8, 1024, 2088}) expect_value_mix<float>(count);
  for (const std::size_t count : {8, 2048, 4104}) expect_value_mix<bf16>(count);
}

}  // namespace
}  // namespace wuneng::kernels::tests
