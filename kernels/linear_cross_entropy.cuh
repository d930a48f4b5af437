// Device code of linear_cross_entropy.h: one block per row of logits, which it reads twice: to describe the
// row (its maximum and the sum of its exponentials, in one online pass), and to turn it into loss and
// gradient. Only the description passes from one to the other, so that ranks that hold a part of the
// vocabulary each can merge theirs in between.
#pragma once

#include <cmath>
#include <limits>

#include "kernels/device/elements.cuh"
#include "kernels/linear_cross_entropy_launch.h"

namespace wuneng::kernels {

constexpr int logit_row_threads = 512;
constexpr int logit_row_warps = logit_row_threads / device::warp_size;
constexpr float log2_e = 1.44269504f;
constexpr float lowest = std::numeric_limits<float>::lowest();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

// e^x to about 2 ulp for x <= 0, 1 for 0.
WUNENG_DEVICE float exponential_approx(float x) { return device::exp2_approx(x * log2_e); }

// ------------------------------------------------------------------ its columns ----

template <int width>
struct Columns {
  float z[width];
};

template <int width>
WUNENG_DEVICE Columns<width> load_columns(const float* logits) {
  Columns<width> x;
  for (int i = 0; i < width; i += 4) {
    const device::Pack<float> pack = device::load_pack(logits + i);
    for (int j = 0; j < 4; ++j) x.z[i + j] = pack[j];
  }
  return x;
}

// work(columns, first of them) for the columns of a row that fall to this thread: those that fill a 16-byte
// store of the gradient at once, the last few one by one.
template <class Element, class Work>
WUNENG_DEVICE void for_columns(const float* logits, std::int64_t count, const Work& work) {
  constexpr int width = device::pack_width<Element>;
  const std::int64_t whole = count / width * width;
  for (std::int64_t c = threadIdx.x * width; c < whole; c += logit_row_threads * width)
    work(load_columns<width>(logits + c), c);
  if (const std::int64_t c = whole + threadIdx.x; c < count) work(Columns<1>{{logits[c]}}, c);
}

template <int width, class Element>
WUNENG_DEVICE void store_columns(Element* to, const Columns<width>& x) {
  if constexpr (width == 1) {
    device::store_element(to, x.z[0]);
  } else {
    device::Pack<Element> pack;
    for (int i = 0; i < width; ++i) pack[i] = x.z[i];
    device::store_pack(to, pack);
  }
}

// The same value in the columns below vocab of a row of the gradient, zeros up to V.
template <class Element>
WUNENG_DEVICE void fill_row(Element* row, std::int64_t vocab, std::int64_t V, float value) {
  for (std::int64_t c = threadIdx.x; c < V; c += logit_row_threads)
    device::store_element(row + c, c < vocab ? value : 0.0f);
}

// ----------------------------------------------------------------- description ----

struct RowDescription {
  float most = lowest;  // not infinite: infinity - infinity is no number
  float sum = 0.0f;     // of e^(z - most)
  float place = 0.0f;   // first column that holds `most`: a float, so that lanes can hand it on; V is at most
                        // 2^24

  template <int width>
  WUNENG_DEVICE void add(const Columns<width>& x, std::int64_t first) {
    float most_here = x.z[0];
    for (int i = 1; i < width; ++i) most_here = x.z[i] > most_here ? x.z[i] : most_here;
    if (most_here > most) {  // rare after the first few columns
      sum *= exponential_approx(most - most_here);
      most = most_here;
      for (int i = width - 1; i >= 0; --i)
        if (x.z[i] == most) place = static_cast<float>(first + i);
    }
    for (int i = 0; i < width; ++i) sum += exponential_approx(x.z[i] - most);
  }
};

// Of two sets of columns together.
WUNENG_DEVICE RowDescription merged(const RowDescription& a, const RowDescription& b) {
  const float most = a.most > b.most ? a.most : b.most;
  const bool first = a.most == b.most ? a.place < b.place : a.most > b.most;
  return {most, a.sum * exponential_approx(a.most - most) + b.sum * exponential_approx(b.most - most),
          first ? a.place : b.place};
}

struct RowShared {
  RowDescription warps[logit_row_warps];
};

// Of all columns of the row; the same in every thread of the block. Threads are merged in a fixed order.
template <class Element>
WUNENG_DEVICE RowDescription describe_row(const float* logits, std::int64_t vocab) {
  RowDescription own;
  for_columns<Element>(logits, vocab, [&](const auto& x, std::int64_t first) { own.add(x, first); });
  for (int mask = device::warp_size / 2; mask > 0; mask /= 2)
    own = merged(own, {device::shuffle_xor(own.most, mask), device::shuffle_xor(own.sum, mask),
                       device::shuffle_xor(own.place, mask)});
  auto& shared = device::shared_memory<RowShared>();
  if (threadIdx.x % device::warp_size == 0) shared.warps[threadIdx.x / device::warp_size] = own;
  device::sync_block();
  RowDescription row = shared.warps[0];
  for (int w = 1; w < logit_row_warps; ++w) row = merged(row, shared.warps[w]);
  return row;
}

// ----------------------------------------------------------- loss and gradient ----

// e^(z - most) times the factor, less one at the target, and the pull at the maximum.
struct RowGradient {
  float most, factor, pull;
  std::int64_t place, target;

  template <int width>
  WUNENG_DEVICE Columns<width> of(const Columns<width>& x, std::int64_t first) const {
    Columns<width> d;
    for (int i = 0; i < width; ++i) {
      d.z[i] = factor * exponential_approx(x.z[i] - most);
      if (first + i == target) d.z[i] -= 1.0f;
      if (first + i == place) d.z[i] += pull;
    }
    return d;
  }
};

// Grid: rows.
//
// budget logit_row<float>: registers 40
// budget logit_row<bf16>: registers 40
template <class Element>
__global__ void __launch_bounds__(logit_row_threads) logit_row(LogitRows<float, Element> r) {
  const std::int64_t at = blockIdx.x, target = r.targets[at];
  const float* logits = r.logits + at * r.stride;
  Element* gradient = r.gradient ? r.gradient + at * r.stride : nullptr;
  if (target < 0 || target >= r.vocab) {
    const float value = target < 0 ? 0.0f : not_a_number;
    if (threadIdx.x == 0) r.losses[at] = r.objectives[at] = value;
    if (gradient) fill_row(gradient, r.vocab, r.V, value);
    return;
  }
  // Before the barrier in describe_row(): after it the gradient may take the logits' place.
  const float target_logit = logits[target];
  const RowDescription row = describe_row<Element>(logits, r.vocab);
  const float log_of_sum = std::log(row.sum), log_sum_exp = row.most + log_of_sum;
  if (threadIdx.x == 0) {
    const float loss = log_of_sum + (row.most - target_logit);
    r.losses[at] = loss;
    r.objectives[at] = loss + r.z_loss * log_sum_exp * log_sum_exp + 0.5f * r.pull * row.most * row.most;
  }
  if (!gradient) return;
  const RowGradient d{row.most, (1.0f + 2.0f * r.z_loss * log_sum_exp) / row.sum, r.pull * row.most,
                      static_cast<std::int64_t>(row.place), target};
  for_columns<Element>(logits, r.vocab, [&](const auto& x, std::int64_t first) {
    store_columns(gradient + first, d.of(x, first));
  });
  for (std::int64_t c = r.vocab + threadIdx.x; c < r.V; c += logit_row_threads)
    device::store_element(gradient + c, 0.0f);
}

}  // namespace wuneng::kernels
