// The device code of the token shift and of the sum over slices, lane by lane, against its definition.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <set>

#include "kernels/device/slice_sum.cuh"
#include "kernels/token_shift.cuh"
#include "tests/kernels/emulated/tensors.h"

namespace wuneng::kernels::tests {
namespace {

struct Case {
  std::int64_t B, T, C;
  bool previous = false;
  std::set<std::int64_t> starts = {};  // positions b * T + t
  int without_gradient = -1;           // the output whose gradient is null
};

// Whole slices and parts of one, both slice lengths crossed; documents at the start of a row and of a slice,
// next to each other, at the end; more channels than a block has.
std::vector<Case> cases() {
  std::vector<Case> all{
      {2, 33, 24, true, {0, 16, 17, 32, 45}},
      {1, 65, 8, false, {64}},
      {3, 1, 16, true, {1}, 0},
  };
  if (emulator::build() == emulator::Build::order) all.push_back({2, 16, 1032, true, {}, 0});
  all.push_back({2, 32, 40, false, {}});
  return all;
}

struct Expected {
  std::vector<Values> out;
  Values d_x, d_mix, d_previous;
};

// The definition, and its gradients by the chain rule, one product at a time.
Expected expected(const Case& c, int M, const Values& x, const Values& mix, const Values& previous,
                  const std::vector<Values>& d) {
  Expected e{std::vector<Values>(M, Values(x.size())), Values(x.size()), Values(mix.size()),
             Values(c.B * c.C)};
  for (std::int64_t token = 0; token < c.B * c.T; ++token)
    for (std::int64_t i = 0; i < c.C; ++i) {
      const std::int64_t at = token * c.C + i;
      const double* before = nullptr;
      double* d_before = nullptr;
      if (c.starts.contains(token)) {
      } else if (token % c.T > 0) {
        before = &x[at - c.C], d_before = &e.d_x[at - c.C];
      } else if (c.previous) {
        before = &previous[token / c.T * c.C + i], d_before = &e.d_previous[token / c.T * c.C + i];
      }
      for (int m = 0; m < M; ++m) {
        const double share = mix[m * c.C + i], value = before ? *before : 0.0;
        e.out[m][at] = (1.0 - share) * x[at] + share * value;
        e.d_x[at] += d[m][at] * (1.0 - share);
        if (d_before) *d_before += d[m][at] * share;
        e.d_mix[m * c.C + i] += d[m][at] * (value - x[at]);
      }
    }
  return e;
}

template <class Element>
unsigned column_blocks(const Case& c) {
  const std::int64_t per_block = token_shift_threads * device::pack_width<Element>;
  return static_cast<unsigned>((c.C + per_block - 1) / per_block);
}

// out [columns] of partial [slices, columns], as the launcher does it.
template <class Element>
void sum_slices(const GuardedBuffer<float>& partial, std::int64_t slices, GuardedBuffer<Element>& out,
                unsigned seed) {
  const auto columns = static_cast<std::int64_t>(out.size());
  const auto blocks =
      static_cast<unsigned>((columns + device::slice_sum_columns - 1) / device::slice_sum_columns);
  emulator::launch(device::slice_sum<Element>, {blocks},
                   device::slice_sum_columns * device::slice_sum_strides, sizeof(device::SliceSums),
                   {.seed = seed}, partial.data(), slices, columns, out.data());
}

template <class Element, int M>
struct TokenShiftCase {
  Case c;
  TokenShiftSizes sizes{c.B, c.T, c.C};
  std::size_t count = static_cast<std::size_t>(c.B * c.T * c.C);
  Input<Element> x{normal_values(count, 1)}, mix{normal_values(M * c.C, 2)},
      previous{normal_values(c.B * c.C, 3)};
  std::vector<std::uint8_t> flags = std::vector<std::uint8_t>(c.B * c.T);
  std::optional<GuardedBuffer<std::uint8_t>> starts;
  std::vector<std::unique_ptr<Input<Element>>> d;
  Expected want;

  explicit TokenShiftCase(const Case& shape) : c(shape) {
    for (const std::int64_t token : c.starts) flags[token] = 1;
    if (!c.starts.empty()) starts.emplace(flags);
    std::vector<Values> d_values;
    for (int m = 0; m < M; ++m) {
      const bool none = m == c.without_gradient && M > 1;
      d.push_back(std::make_unique<Input<Element>>(normal_values(count, 10 + m, none ? 0.0 : 1.0)));
      d_values.push_back(d.back()->values);
    }
    want = expected(c, M, x.values, mix.values, previous.values, d_values);
  }

  TokenShiftInputs<Element> inputs() const {
    return {x.data(), mix.data(), c.previous ? previous.data() : nullptr, starts ? starts->data() : nullptr};
  }

  void forward(unsigned seed) {
    std::vector<std::unique_ptr<GuardedBuffer<Element>>> out;
    TokenShiftOutputs<Element> pointers{};
    for (int m = 0; m < M; ++m) {
      out.push_back(std::make_unique<GuardedBuffer<Element>>(count));
      pointers.out[m] = out[m]->data();
    }
    const auto blocks = static_cast<unsigned>(token_shift_slices(sizes, token_shift_slice));
    emulator::launch(token_shift_forward<Element, M>, {blocks, column_blocks<Element>(c)},
                     token_shift_threads, 0, {.seed = seed}, inputs(), sizes, pointers);
    for (int m = 0; m < M; ++m)
      EXPECT_LT(relative_error(values_of(*out[m]), want.out[m]), output_bar<Element>) << "output " << m;
  }

  void backward(unsigned seed) {
    GuardedBuffer<Element> d_x(count), d_previous(c.B * c.C), d_mix(M * c.C);
    const std::int64_t slices = token_shift_slices(sizes, token_shift_backward_slice);
    GuardedBuffer<float> partial(slices * M * c.C);
    TokenShiftGradients<Element> g{{}, d_x.data(), c.previous ? d_previous.data() : nullptr};
    for (int m = 0; m < M; ++m) g.d_out[m] = m == c.without_gradient && M > 1 ? nullptr : d[m]->data();
    emulator::launch(token_shift_backward<Element, M>,
                     {static_cast<unsigned>(slices), column_blocks<Element>(c)}, token_shift_threads, 0,
                     {.seed = seed}, inputs(), sizes, g, partial.data());
    sum_slices(partial, slices, d_mix, seed);
    EXPECT_LT(relative_error(values_of(d_x), want.d_x), gradient_bar<Element>) << "gradient of x";
    EXPECT_LT(relative_error(values_of(d_mix), want.d_mix), gradient_bar<Element>) << "gradient of mix";
    if (!c.previous) return;
    EXPECT_LT(relative_error(values_of(d_previous), want.d_previous), gradient_bar<Element>) << "of previous";
  }
};

template <class Element, int M>
void expect_definition() {
  for (const Case& c : cases()) {
    SCOPED_TRACE(testing::Message() << "B " << c.B << " T " << c.T << " C " << c.C);
    TokenShiftCase<Element, M> test(c);
    for (int seed = 0; seed < emulator::seeds(); ++seed) {
      test.forward(seed);
      test.backward(seed);
    }
  }
}

TEST(TokenShiftDevice, SixMixesAreTheirDefinition) { expect_definition<float, 6>(); }
TEST(TokenShiftDevice, SixMixesInBf16AreTheirDefinition) { expect_definition<bf16, 6>(); }
TEST(TokenShiftDevice, OneMixIsItsDefinition) { expect_definition<float, 1>(); }
TEST(TokenShiftDevice, OneMixInBf16IsItsDefinition) { expect_definition<bf16, 1>(); }

TEST(SliceSum, AddsTheSlicesWhateverTheirNumber) {
  constexpr std::int64_t columns = 70;
  for (const std::int64_t slices : {0, 1, 7, 8, 29}) {
    const Input<float> partial(normal_values(slices * columns, 1));
    Values want(columns);
    for (std::int64_t i = 0; i < slices * columns; ++i) want[i % columns] += partial[i];
    std::vector<float> first;
    for (int seed = 0; seed < emulator::seeds(); ++seed) {
      GuardedBuffer<float> sum(columns);
      GuardedBuffer<bf16> rounded(columns);
      sum_slices(partial.memory, slices, sum, seed);
      sum_slices(partial.memory, slices, rounded, seed);
      EXPECT_LE(relative_error(values_of(sum), want), 1e-6) << slices << " slices";
      EXPECT_LE(relative_error(values_of(rounded), want), output_bar<bf16>) << slices << " slices";
      if (first.empty()) first = sum.values();
      EXPECT_TRUE(same_bits(sum, first)) << "the order of warps changes the sum";
    }
  }
}

}  // namespace
}  // namespace wuneng::kernels::tests
