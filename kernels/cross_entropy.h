// Cross entropy of each token. CPU, float32 and float64; the backward pass re-uses the logits and one float
// per row. Bits do not depend on the number of threads.
#pragma once

#include <ATen/core/Tensor.h>

namespace wuneng::kernels {

// logits [n, V] contiguous, targets [n] int64 on the CPU; a negative target means "not a real token": its
// loss and gradient are zero. Columns from `vocab_size` up to V are padding and take no part (their gradient
// is zero). Returns losses [n], -log softmax(logits[i, :vocab_size])[targets[i]], in nats. A target >=
// vocab_size throws Error.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& targets, std::int64_t vocab_size);

}  // namespace wuneng::kernels
