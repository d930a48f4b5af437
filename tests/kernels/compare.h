#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

namespace wuneng::kernels::tests {

// Standard normal values, the same for the same seed.
inline at::Tensor normal(at::IntArrayRef shape, std::uint64_t seed, at::ScalarType dtype = at::kDouble) {
  return at::empty(shape, at::kDouble).normal_(0.0, 1.0, at::detail::createCPUGenerator(seed)).to(dtype);
}

// Root mean square of the error over that of the reference.
inline double error_ratio(const at::Tensor& x, const at::Tensor& reference) {
  const at::Tensor a = x.detach().to(at::kDouble), b = reference.detach().to(at::kDouble);
  const double scale = b.square().mean().item<double>();
  const double error = a.sub(b).square().mean().item<double>();
  return scale > 0.0 ? std::sqrt(error / scale) : std::sqrt(error);
}

// Outputs and input gradients of `op`, with fixed random cotangents.
struct Derivatives {
  std::vector<at::Tensor> outputs, gradients;
};
using Op = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

inline Derivatives differentiate(const Op& op, const std::vector<at::Tensor>& inputs) {
  Derivatives d;
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& input : inputs) leaves.push_back(input.detach().clone().requires_grad_());
  at::Tensor total;
  std::uint64_t seed = 1000;
  for (const at::Tensor& output : op(leaves)) {
    const at::Tensor term = output.mul(normal(output.sizes(), ++seed, output.scalar_type())).sum();
    total = total.defined() ? total.add(term) : term;
    d.outputs.push_back(output.detach());
  }
  total.backward();
  for (const at::Tensor& leaf : leaves) d.gradients.push_back(leaf.grad());
  return d;
}

enum class SameBits { always, in_float32 };

// `op` against `reference` (composed of others' operators, in float64): outputs and gradients in float64 to
// 1e-10 and in float32 to 1e-5; and the same bits with one and two threads (in float32 alone for what
// LibTorch multiplies: its float64 products split their sums by threads).
inline void expect_equal(const Op& op, const Op& reference, const std::vector<at::Tensor>& inputs,
                         SameBits same_bits = SameBits::always) {
  const Derivatives expected = differentiate(reference, inputs);
  for (const auto& [dtype, bar] : {std::pair{at::kDouble, 1e-10}, {at::kFloat, 1e-5}}) {
    std::vector<at::Tensor> cast;
    for (const at::Tensor& input : inputs) cast.push_back(input.to(dtype));
    at::set_num_threads(1);
    const Derivatives one = differentiate(op, cast);
    at::set_num_threads(2);
    const Derivatives two = differentiate(op, cast);
    const bool compare_bits = same_bits == SameBits::always || dtype == at::kFloat;
    for (std::size_t i = 0; i < expected.outputs.size(); ++i) {
      EXPECT_LT(error_ratio(one.outputs[i], expected.outputs[i]), bar) << "output " << i;
      EXPECT_TRUE(!compare_bits || one.outputs[i].equal(two.outputs[i])) << "threads change output " << i;
    }
    for (std::size_t i = 0; i < expected.gradients.size(); ++i) {
      EXPECT_LT(error_ratio(one.gradients[i], expected.gradients[i]), bar) << "gradient of input " << i;
      EXPECT_TRUE(!compare_bits || one.gradients[i].equal(two.gradients[i]))
          << "threads change the gradient of input " << i;
    }
  }
}

}  // namespace wuneng::kernels::tests
