// Vectors of a given number of lanes (GCC's vector extension), for code that is compiled once per instruction
// set.
#pragma once

#include <cstddef>
#include <utility>

#include "kernels/simd.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // wide vectors are passed between inlined functions only

namespace wuneng::kernels {

template <class T, int lanes>
struct VectorOf {
  typedef T type __attribute__((vector_size(lanes * sizeof(T)), aligned(alignof(T)), may_alias));
};
template <class T, int lanes>
using Vector = typename VectorOf<T, lanes>::type;

template <int lanes, class T>
WUNENG_INLINE Vector<T, lanes> load(const T* from) {
  return *reinterpret_cast<const Vector<T, lanes>*>(from);
}

template <int lanes, class T>
WUNENG_INLINE void store(T* to, Vector<T, lanes> value) {
  *reinterpret_cast<Vector<T, lanes>*>(to) = value;
}

template <class T, int lanes, std::size_t... low>
WUNENG_INLINE Vector<T, lanes / 2> folded(Vector<T, lanes> x, std::index_sequence<low...>) {
  return __builtin_shufflevector(x, x, low...) + __builtin_shufflevector(x, x, (low + lanes / 2)...);
}

// The sum of all lanes, folded in halves.
template <class T, int lanes>
WUNENG_INLINE T lanes_sum(Vector<T, lanes> x) {
  if constexpr (lanes == 2)
    return x[0] + x[1];
  else
    return lanes_sum<T, lanes / 2>(folded<T, lanes>(x, std::make_index_sequence<lanes / 2>()));
}

}  // namespace wuneng::kernels
