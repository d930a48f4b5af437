// Launchers of attention.h: plain pointers, no tensors. T is float or double.
#pragma once

#include <cstdint>

namespace wuneng::kernels {

// The rows of one sequence and head: token t's N elements begin at data + t * stride.
template <class T>
struct HeadRows {
  T* data;
  std::int64_t stride;
};

struct HeadSizes {
  std::int64_t tokens, N;
};

// y and log_sums [tokens], the logarithms of the softmaxes' denominators.
template <class T>
void attention_forward_cpu(HeadSizes sizes, HeadRows<const T> q, HeadRows<const T> k, HeadRows<const T> v,
                           HeadRows<T> y, T* log_sums);

// What one query head needs and gives in the backward pass.
template <class T>
struct QueryHead {
  HeadRows<const T> q, y, d_y;
  const T* log_sums;
  HeadRows<T> d_q;
};

// The query heads [0, count) that share k and v.
template <class T>
void attention_backward_cpu(HeadSizes sizes, const QueryHead<T>* heads, std::int64_t count,
                            HeadRows<const T> k, HeadRows<const T> v, HeadRows<T> d_k, HeadRows<T> d_v);

}  // namespace wuneng::kernels
