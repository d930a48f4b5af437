// Inputs for the emulated WKV-7 kernels. What the device gets as bf16 or fp32 is rounded to that here
// already, so that a test sees the kernels' errors alone.
#pragma once

#include <bit>
#include <random>
#include <string>

#include "tests/kernels/emulated/wkv7_reference.h"

namespace wuneng::kernels::tests {

inline std::uint16_t bf16_bits(double x) {
  const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}
inline double bf16_value(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline Values rounded_to_bf16(Values x) {
  for (double& y : x) y = bf16_value(bf16_bits(y));
  return x;
}
inline Values rounded_to_float(Values x) {
  for (double& y : x) y = static_cast<float>(y);
  return x;
}

// What is special about a problem's inputs.
enum class Kind {
  usual,  // as RWKV-7 makes them: a = -kappa, b = kappa * alpha, kappa along k but for a factor a channel
  fastest_decay,  // log_decay at its bound everywhere
  no_decay,       // log_decay = 0 everywhere
  repeated,       // one token repeated, in-context rate 1, almost no decay
  alike,          // the same up to noise of 1 %
  turned,         // in-context rate 1 + decay: what is removed comes back with its sign turned
  no_keys,        // k = kappa = 0 in half of the tokens
  large           // r, k, v 64 times as large
};

inline std::string name_of(Kind kind) {
  const char* names[] = {"usual", "fastest decay", "no decay", "repeated",
                         "alike", "turned",        "no keys",  "large"};
  return names[static_cast<int>(kind)];
}
inline void PrintTo(Kind kind, std::ostream* out) { *out << name_of(kind); }

class Draw {
 public:
  explicit Draw(unsigned seed) : engine_(seed) {}
  Values normal(std::size_t count, double scale = 1) {
    std::normal_distribution<double> distribution(0, scale);
    Values x(count);
    for (double& y : x) y = distribution(engine_);
    return x;
  }

 private:
  std::mt19937 engine_;
};

inline double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Token `token` of every head like token 0.
inline void repeat_first_token(const Wkv7Problem& p, Values& x) {
  const std::size_t width = static_cast<std::size_t>(p.H) * p.N;
  for (std::size_t i = width; i < x.size(); ++i) x[i] = x[i % width];
}

inline void make_special(Wkv7Problem& p, Kind kind) {
  constexpr double bound = -0.6065306597126334;
  const std::size_t width = static_cast<std::size_t>(p.H) * p.N;
  if (kind == Kind::fastest_decay) p.log_decay.assign(p.log_decay.size(), bound);
  if (kind == Kind::no_decay) p.log_decay.assign(p.log_decay.size(), 0);
  if (kind == Kind::repeated || kind == Kind::alike) {
    Draw draw(3);
    for (Values* x : {&p.r, &p.k, &p.v, &p.a}) {
      repeat_first_token(p, *x);
      const Values noise = draw.normal(x->size(), kind == Kind::alike ? 0.01 : 0);
      for (std::size_t i = 0; i < x->size(); ++i) (*x)[i] *= 1 + noise[i];
    }
    for (std::size_t i = 0; i < p.a.size(); ++i) p.b[i] = -p.a[i], p.log_decay[i] = -1e-3;
  }
  if (kind == Kind::turned)
    for (std::size_t i = 0; i < p.a.size(); ++i) p.b[i] = -p.a[i] * (1 + std::exp(p.log_decay[i]));
  if (kind == Kind::no_keys)
    for (std::size_t i = 0; i < p.k.size(); ++i)
      if (i / width % 2 == 0) p.k[i] = p.a[i] = p.b[i] = 0;
  if (kind == Kind::large)
    for (Values* x : {&p.r, &p.k, &p.v})
      for (double& y : *x) y *= 64;
}

struct Shape {
  int B, T, H, N;
};

inline Wkv7Problem problem(const Shape& shape, Kind kind = Kind::usual, unsigned seed = 1) {
  Wkv7Problem p{shape.B, shape.T, shape.H, shape.N, {}, false, {}, {}, {}, {}, {}, {}, {}, {}, {}};
  const std::size_t count = static_cast<std::size_t>(p.B) * p.T * p.H * p.N;
  Draw draw(seed);
  p.r = draw.normal(count), p.k = draw.normal(count, 0.3), p.v = draw.normal(count);
  p.log_decay = draw.normal(count, 2), p.a = Values(count), p.b = draw.normal(count);
  const Values key_factor = draw.normal(static_cast<std::size_t>(p.H) * p.N, 0.3);
  for (double& x : p.log_decay) x = -0.6065306597126334 * sigmoid(x);
  for (std::size_t i = 0; i < count; i += p.N) {
    double square = 0;
    for (int j = 0; j < p.N; ++j) p.a[i + j] = p.k[i + j] * (0.85 + key_factor[i % key_factor.size() + j]);
    for (int j = 0; j < p.N; ++j) square += p.a[i + j] * p.a[i + j];
    for (int j = 0; j < p.N; ++j) {
      p.a[i + j] /= -std::sqrt(square);
      p.b[i + j] = -p.a[i + j] * sigmoid(p.b[i + j]);
    }
  }
  make_special(p, kind);
  for (Values* x : {&p.r, &p.log_decay, &p.k, &p.v, &p.a, &p.b}) *x = rounded_to_bf16(*x);
  p.grad_y = rounded_to_bf16(draw.normal(count));
  return p;
}

// With states in and out; call it once the problem has its documents.
inline Wkv7Problem with_states(Wkv7Problem p) {
  const std::size_t count = static_cast<std::size_t>(state_count(p)) * p.H * p.N * p.N;
  Draw draw(2);
  p.initial_state = rounded_to_float(draw.normal(count)),
  p.grad_final_state = rounded_to_float(draw.normal(count));
  return p;
}

inline double error_ratio(const Values& x, const Values& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    error += (x[i] - expected[i]) * (x[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  return error == 0 ? 0 : std::sqrt(error / size);
}

}  // namespace wuneng::kernels::tests
