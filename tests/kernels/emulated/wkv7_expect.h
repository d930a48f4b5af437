// Runs a problem through the tensor-core kernels on the emulator and holds every result to its bar.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>

#include "tests/kernels/emulated/wkv7_run.h"

namespace wuneng::kernels::tests {

// Bars of rms(error) / rms(expected).
struct Bars {
  double y = 5e-3, final_state = 5e-3, gradient = 8e-3, log_decay = 6e-3;
};

inline void expect_reference(const Wkv7Problem& p, const Wkv7Bits& bits, const std::string& name,
                             const Bars& bars = {}) {
  const Wkv7Result result = values(bits), expected = reference(p);
  const auto close = [&](const char* what, const Values& x, const Values& y, double bar) {
    for (const double value : x) ASSERT_TRUE(std::isfinite(value)) << what << " of " << name;
    const double error = error_ratio(x, y);
    std::printf(" %s %.1e", what, error);
    EXPECT_LE(error, bar) << what << " of " << name;
  };
  std::printf("%-16s T %3d N %3d:", name.c_str(), p.T, p.N);
  close("y", result.y, expected.y, bars.y);
  close("S", result.final_state, expected.final_state, bars.final_state);
  close("dr", result.r, expected.r, bars.gradient);
  close("dw", result.log_decay, expected.log_decay, bars.log_decay);
  close("dk", result.k, expected.k, bars.gradient);
  close("dv", result.v, expected.v, bars.gradient);
  close("da", result.a, expected.a, bars.gradient);
  close("db", result.b, expected.b, bars.gradient);
  close("dS", result.initial_state, expected.initial_state, bars.gradient);
  std::printf("\n");
}

inline void expect_reference(const Wkv7Problem& p, const std::string& name, const Bars& bars = {}) {
  expect_reference(p, run(p), name, bars);
}

// Row 0: documents of 1, 16, 17 and 31 tokens from its start on. Row 1 goes on with its state for 40 tokens.
inline Wkv7Problem documents(int N, bool states_per_document) {
  Wkv7Problem p = problem({2, 65, 1, N});
  p.starts = {0, 1, 17, 34, 65 + 40, 65 + 41};
  p.states_per_document = states_per_document;
  return with_states(p);
}

}  // namespace wuneng::kernels::tests
