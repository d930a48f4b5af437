#include "kernels/linear_cross_entropy.cuh"

#include <cuda_runtime.h>

namespace wuneng::kernels {

template <class Element>
int logit_rows_cuda(const LogitRows<float, Element>& r, void* stream) {
  if (r.rows == 0) return 0;
  logit_row<Element><<<static_cast<unsigned>(r.rows), logit_row_threads, sizeof(RowShared),
                       static_cast<cudaStream_t>(stream)>>>(r);
  return cudaGetLastError();
}

template int logit_rows_cuda(const LogitRows<float, float>&, void*);
template int logit_rows_cuda(const LogitRows<float, device::bf16>&, void*);

}  // namespace wuneng::kernels
