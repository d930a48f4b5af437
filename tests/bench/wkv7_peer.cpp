#include "tests/bench/wkv7_peer.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <vector>

namespace wuneng::bench {
namespace {

// [B, T, H, N] -> [B * H, chunks, C, N].
at::Tensor by_chunk(const at::Tensor& x, std::int64_t C) {
  const std::int64_t B = x.size(0), T = x.size(1), H = x.size(2), N = x.size(3);
  return x.view({B, T / C, C, H, N}).permute({0, 3, 1, 2, 4}).reshape({B * H, T / C, C, N});
}

// Scores of reads with writes, [..., 2C, 2C]: an a reads what was written before its token, an r up to its
// token.
at::Tensor mask(std::int64_t C, const at::Tensor& like) {
  const at::Tensor t = at::arange(C, like.options());
  const at::Tensor strict = t.unsqueeze(1).gt(t), inclusive = t.unsqueeze(1).ge(t);
  return at::cat({at::cat({strict, strict}, 1), at::cat({inclusive, inclusive}, 1)}).to(like.scalar_type());
}

}  // namespace

at::Tensor wkv7_peer(const at::Tensor& r, const at::Tensor& log_decay, const at::Tensor& k,
                     const at::Tensor& v, const at::Tensor& a, const at::Tensor& b, std::int64_t C) {
  const std::int64_t B = r.size(0), T = r.size(1), H = r.size(2), N = r.size(3), chunks = T / C;
  const at::Tensor decay = by_chunk(log_decay, C), G = decay.cumsum(2), shrink = G.neg().exp();
  const at::Tensor values = by_chunk(v, C);
  const at::Tensor A = by_chunk(a, C).mul(G.sub(decay).exp()), R = by_chunk(r, C).mul(G.exp());
  const at::Tensor writes = at::cat({by_chunk(b, C).mul(shrink), by_chunk(k, C).mul(shrink)}, 2);  // [B~; K~]
  const at::Tensor scores = at::matmul(at::cat({A, R}, 2), writes.transpose(-1, -2)).mul(mask(C, r));
  const auto block = [&](std::int64_t i, std::int64_t j) {
    return scores.narrow(2, i * C, C).narrow(3, j * C, C);
  };
  // U = W S0^T + X with [W | X] = (I - A~ B~^T)^-1 [A~ | A~ K~^T V]; the solver takes the diagonal as one.
  const at::Tensor solved = at::linalg_solve_triangular(
      block(0, 0).neg(), at::cat({A, at::matmul(block(0, 1), values)}, 3), /*upper=*/false, /*left=*/true,
      /*unitriangular=*/true);
  const std::vector<at::Tensor> W = solved.narrow(3, 0, N).unbind(1), X = solved.narrow(3, N, N).unbind(1);
  const std::vector<at::Tensor> written = writes.unbind(1), V = values.unbind(1);
  const std::vector<at::Tensor> gamma = G.narrow(2, C - 1, 1).exp().unbind(1);  // each [B * H, 1, N]
  at::Tensor state = at::zeros({B * H, N, N}, r.options());
  std::vector<at::Tensor> states, U;
  for (std::int64_t c = 0; c < chunks; ++c) {
    states.push_back(state);
    U.push_back(at::baddbmm(X[c], W[c], state.transpose(1, 2)));
    state = at::baddbmm(state, at::cat({U[c], V[c]}, 1).transpose(1, 2), written[c]).mul(gamma[c]);
  }
  const at::Tensor uv = at::cat({at::stack(U, 1), values}, 2);
  const at::Tensor y =
      at::matmul(R, at::stack(states, 1).transpose(-1, -2)).add(at::matmul(scores.narrow(2, C, C), uv));
  return y.view({B, H, chunks, C, N}).permute({0, 2, 3, 1, 4}).reshape({B, T, H, N});
}

}  // namespace wuneng::bench
