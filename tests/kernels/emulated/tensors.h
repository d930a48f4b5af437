// Tensors of float or bf16 for kernels under the emulator, and what they hold in float64 for the definitions
// that the kernels are compared with.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <type_traits>
#include <vector>

#include "kernels/device/warp.cuh"
#include "tests/emulator/emulator.h"

namespace wuneng::kernels::tests {

using device::bf16;
using emulator::GuardedBuffer;
using Values = std::vector<double>;

inline float as_element(double x, float) { return static_cast<float>(x); }
// To nearest, ties to even; x is finite.
inline bf16 as_element(double x, bf16) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline double as_double(float x) { return x; }
inline double as_double(bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

// An input: the elements in guarded memory, and the same numbers in float64.
template <class Element>
struct Input {
  Values values;
  GuardedBuffer<Element> memory;

  explicit Input(const Values& wanted) : values(wanted.size()), memory(wanted.size()) {
    std::vector<Element> elements(wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      elements[i] = as_element(wanted[i], Element{});
      values[i] = as_double(elements[i]);
    }
    memory.fill(elements.data());
  }

  const Element* data() const { return memory.data(); }
  double operator[](std::size_t i) const { return values[i]; }
};

inline Values normal_values(std::size_t count, unsigned seed, double scale = 1.0) {
  std::mt19937_64 generator(seed);
  std::normal_distribution<double> normal(0.0, scale);
  Values values(count);
  for (double& x : values) x = normal(generator);
  return values;
}

template <class Element>
Values values_of(const GuardedBuffer<Element>& memory) {
  Values values;
  for (const Element x : memory.values()) values.push_back(as_double(x));
  return values;
}

// Root mean square of the error over that of the reference; NaN when there is one in x.
inline double relative_error(const Values& x, const Values& reference) {
  double error = 0.0, scale = 0.0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (x[i] - reference[i]) * (x[i] - reference[i]);
    scale += reference[i] * reference[i];
  }
  return std::sqrt(error / (scale > 0.0 ? scale : 1.0));
}

template <class Element>
constexpr double output_bar = std::is_same_v<Element, float> ? 1e-5 : 5e-3;
template <class Element>
constexpr double gradient_bar = std::is_same_v<Element, float> ? 1e-5 : 8e-3;

// A test's values are those of one fixed order of lanes when every seed gives the same bits.
template <class T>
bool same_bits(const GuardedBuffer<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), y.size() * sizeof(T)) == 0;
}

}  // namespace wuneng::kernels::tests
