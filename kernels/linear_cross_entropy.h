// The output head and its cross entropy as one operator, which never holds the logits of all tokens: they are
// made block by block of tokens, and turned into their gradient on the spot. On the CPU in float32 and
// float64; on CUDA in float32 and bfloat16, whose logits, losses and sums are in float32. The same bits each
// time; on the CPU those of float32 do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

namespace wuneng::kernels {

// Regularisers of the logits z of a token, added to its loss.
struct LogitPenalties {
  double z_loss = 0.0;  // times logsumexp(z)^2 (PaLM, arXiv 2204.02311, section 5)
  double pull = 0.0;    // times max(z)^2 / 2, as RWKV's training code pulls the largest logit to zero

  bool operator==(const LogitPenalties&) const = default;
};

struct LinearCrossEntropy {
  // In the dtype of hidden, float32 for bfloat16.
  at::Tensor objective;  // scalar: the sum over tokens of loss and penalties; differentiable
  at::Tensor losses;     // [n] -log softmax(z)[target] of each token, in nats; not differentiable
};

// The weight's place in a vocabulary whose rows are shared out over several processes by id.
struct VocabularyShard {
  std::int64_t begin = 0;             // id of the weight's first row
  std::int64_t shards = 1, mine = 0;  // how many there are, and this one's number in the order of ids
  std::int64_t whole_size = 0;        // of the whole vocabulary
  // mine [k, 4] float64 -> all [shards, k, 4]: what the shards say of the same k tokens. Called once per
  // block of tokens.
  std::function<at::Tensor(const at::Tensor& mine)> gather = {};
};

// hidden [n, C], weight [V, C] contiguous: z = hidden weight^T. Columns from `vocab_size` up to V (at most
// 2^24 on CUDA) are padding and take no part. targets [n] int64 on the device of hidden; a negative target
// means "not a real token": its loss, penalties and gradient are zero. A target >= vocab_size throws Error on
// the CPU; on CUDA, where the host would have to wait to see it, it makes NaN of the objective, of its
// token's loss and gradient, and of the weight's gradient.
// Differentiable in hidden and weight, once and by one backward pass: the gradients are made in the forward
// pass, where the logits are at hand, take the place of n x V numbers, and are handed over.
LinearCrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets, std::int64_t vocab_size,
                                        LogitPenalties penalties = {});

// The same of a whole vocabulary of which the weight is one shard: targets are ids of the whole,
// `vocab_size` counts the weight's own rows, losses and objective are the whole's. The gradients are this
// shard's: that of the weight is complete, that of hidden must be summed over the shards.
LinearCrossEntropy linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                        const at::Tensor& targets, std::int64_t vocab_size,
                                        LogitPenalties penalties, const VocabularyShard& shard);

}  // namespace wuneng::kernels
