// WKV-7 token by token in double precision, with back-propagation through time: the yardstick of the emulated
// kernels. Plain C++, written from the equations of kernels/wkv7/wkv7.h alone.
#pragma once

#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

namespace wuneng::kernels::tests {

using Values = std::vector<double>;

struct Wkv7Problem {
  int B = 1, T, H = 1, N = 64;
  std::vector<std::int64_t> starts;  // b * T + t at which documents begin
  bool states_per_document = false;  // states are [sequences, H, N, N], else [B, H, N, N]
  Values r, log_decay, k, v, a, b;   // [B, T, H, N]
  Values initial_state;              // or empty: zero
  Values grad_y;                     // [B, T, H, N]
  Values grad_final_state;           // or empty: zero
};

struct Wkv7Result {
  Values y, final_state;
  Values r, log_decay, k, v, a, b, initial_state;  // gradients; initial_state zero where none is used
};

// Tokens through which one state flows.
struct Wkv7Span {
  std::int64_t first, length;
  int initial, final;  // states, -1: none
};

inline std::vector<Wkv7Span> spans(const Wkv7Problem& p) {
  const std::set<std::int64_t> starts(p.starts.begin(), p.starts.end());
  std::vector<Wkv7Span> all;
  for (std::int64_t token = 0; token < static_cast<std::int64_t>(p.B) * p.T; ++token) {
    const int row = static_cast<int>(token / p.T), index = static_cast<int>(all.size());
    const bool row_begins = token % p.T == 0;
    if (!row_begins && !starts.contains(token)) {
      ++all.back().length;
    } else if (p.states_per_document) {
      all.push_back({token, 1, index, index});
    } else {
      if (!row_begins) all.back().final = -1;
      all.push_back({token, 1, starts.contains(token) ? -1 : row, row});
    }
  }
  return all;
}

inline int state_count(const Wkv7Problem& p) {
  return p.states_per_document ? static_cast<int>(spans(p).size()) : p.B;
}

// One head of one span.
class Wkv7Recurrence {
 public:
  Wkv7Recurrence(const Wkv7Problem& p, const Wkv7Span& span, int head)
      : p_(p), span_(span), head_(head), n_(p.N) {}

  void run(Wkv7Result& out) {
    forward(out);
    backward(out);
  }

 private:
  std::size_t at(std::int64_t t) const {
    return static_cast<std::size_t>(((span_.first + t) * p_.H + head_) * n_);
  }
  std::size_t state_at(int index) const { return static_cast<std::size_t>(index * p_.H + head_) * n_ * n_; }

  void forward(Wkv7Result& out) {
    Values s(n_ * n_, 0.0);
    if (span_.initial >= 0 && !p_.initial_state.empty())
      std::copy_n(p_.initial_state.begin() + state_at(span_.initial), n_ * n_, s.begin());
    states_ = {s};
    u_.clear();
    for (std::int64_t t = 0; t < span_.length; ++t) {
      const std::size_t o = at(t);
      Values u(n_, 0.0);
      for (int i = 0; i < n_; ++i)
        for (int j = 0; j < n_; ++j) u[i] += s[i * n_ + j] * p_.a[o + j];
      for (int i = 0; i < n_; ++i)
        for (int j = 0; j < n_; ++j)
          s[i * n_ + j] =
              s[i * n_ + j] * std::exp(p_.log_decay[o + j]) + u[i] * p_.b[o + j] + p_.v[o + i] * p_.k[o + j];
      for (int i = 0; i < n_; ++i)
        for (int j = 0; j < n_; ++j) out.y[o + i] += s[i * n_ + j] * p_.r[o + j];
      states_.push_back(s);
      u_.push_back(u);
    }
    if (span_.final >= 0) std::copy(s.begin(), s.end(), out.final_state.begin() + state_at(span_.final));
  }

  void backward(Wkv7Result& out) {
    Values ds(n_ * n_, 0.0);
    if (span_.final >= 0 && !p_.grad_final_state.empty())
      std::copy_n(p_.grad_final_state.begin() + state_at(span_.final), n_ * n_, ds.begin());
    for (std::int64_t t = span_.length - 1; t >= 0; --t) step_back(t, ds, out);
    if (span_.initial >= 0)
      std::copy(ds.begin(), ds.end(), out.initial_state.begin() + state_at(span_.initial));
  }

  // ds: of the state after token t without y_t's part, then of the state before it.
  void step_back(std::int64_t t, Values& ds, Wkv7Result& out) {
    const std::size_t o = at(t);
    const Values &before = states_[t], &after = states_[t + 1], &u = u_[t];
    Values du(n_, 0.0);
    for (int i = 0; i < n_; ++i)
      for (int j = 0; j < n_; ++j) {
        double& d = ds[i * n_ + j];
        out.r[o + j] += p_.grad_y[o + i] * after[i * n_ + j];
        d += p_.grad_y[o + i] * p_.r[o + j];
        out.k[o + j] += d * p_.v[o + i];
        out.v[o + i] += d * p_.k[o + j];
        out.b[o + j] += d * u[i];
        du[i] += d * p_.b[o + j];
        out.log_decay[o + j] += d * before[i * n_ + j] * std::exp(p_.log_decay[o + j]);
      }
    for (int i = 0; i < n_; ++i)
      for (int j = 0; j < n_; ++j) {
        out.a[o + j] += du[i] * before[i * n_ + j];
        ds[i * n_ + j] = ds[i * n_ + j] * std::exp(p_.log_decay[o + j]) + du[i] * p_.a[o + j];
      }
  }

  const Wkv7Problem& p_;
  const Wkv7Span span_;
  const int head_, n_;
  std::vector<Values> states_, u_;  // before each token and at the end; S a
};

inline Wkv7Result reference(const Wkv7Problem& p) {
  const Values tokens(p.r.size(), 0.0),
      states(static_cast<std::size_t>(state_count(p)) * p.H * p.N * p.N, 0.0);
  Wkv7Result out{tokens, states, tokens, tokens, tokens, tokens, tokens, tokens, states};
  for (const Wkv7Span& span : spans(p))
    for (int head = 0; head < p.H; ++head) Wkv7Recurrence(p, span, head).run(out);
  return out;
}

}  // namespace wuneng::kernels::tests
