#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "common/check.h"
#include "kernels/wkv7/dispatch.h"

#ifdef WUNENG_WITH_CUDA

#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstring>

#include "kernels/wkv7/cuda.h"

namespace wuneng::kernels {
namespace {

// The tables of the chunks, on the device; without documents there are none.
struct Tables {
  Wkv7Chunks chunks{};
  at::Tensor chunk_table, sequence_table;  // hold the memory
};

// A host array's bytes on the device. The copy is staged before the call returns: `host` may end.
template <class Entry>
at::Tensor on_device(const std::vector<Entry>& host, const at::Tensor& like) {
  const auto bytes = static_cast<std::int64_t>(host.size() * sizeof(Entry));
  const at::Tensor staged = at::empty({bytes}, at::kByte);
  std::memcpy(staged.mutable_data_ptr<std::uint8_t>(), host.data(), host.size() * sizeof(Entry));
  return staged.to(like.device());
}

std::int32_t chunks_of(const Wkv7Sequence& s) {
  return static_cast<std::int32_t>((s.length + wkv7_chunk_tokens - 1) / wkv7_chunk_tokens);
}

Tables tables_of(const Wkv7Problem& p, const at::Tensor& like) {
  Tables tables;
  std::vector<Wkv7Chunk> chunks;
  std::vector<Wkv7SequenceChunks> sequences;
  std::int64_t count = 0;
  for (const Wkv7Sequence& s : p.sequences) count += chunks_of(s);
  WN_CHECK(count <= INT32_MAX, "wkv7: {} chunks of {} tokens, at most {} in one call", count,
           wkv7_chunk_tokens, INT32_MAX);
  tables.chunks.T = p.T;
  tables.chunks.chunks = static_cast<std::int32_t>(count);
  tables.chunks.sequences = static_cast<std::int32_t>(p.sequences.size());
  if (!p.documents) return tables;
  for (const Wkv7Sequence& s : p.sequences) {
    const auto first = static_cast<std::int32_t>(chunks.size()),
               index = static_cast<std::int32_t>(sequences.size());
    for (std::int64_t at = 0; at < s.length; at += wkv7_chunk_tokens)
      chunks.push_back({s.begin + at,
                        static_cast<std::int32_t>(std::min<std::int64_t>(wkv7_chunk_tokens, s.length - at)),
                        index});
    sequences.push_back({.token = s.begin,
                         .length = s.length,
                         .first = first,
                         .count = chunks_of(s),
                         .initial = static_cast<std::int32_t>(s.initial),
                         .final = static_cast<std::int32_t>(s.final),
                         .kept = s.kept});
  }
  tables.chunk_table = on_device(chunks, like);
  tables.sequence_table = on_device(sequences, like);
  tables.chunks.chunk_table = reinterpret_cast<const Wkv7Chunk*>(tables.chunk_table.const_data_ptr());
  tables.chunks.sequence_table =
      reinterpret_cast<const Wkv7SequenceChunks*>(tables.sequence_table.const_data_ptr());
  return tables;
}

template <class Element>
Element* data(const at::Tensor& x) {
  return x.defined() ? static_cast<Element*>(x.mutable_data_ptr()) : nullptr;
}

template <class Element>
Wkv7CudaInputs<Element> inputs_of(const Wkv7Tensors& in, const at::Tensor& initial_state) {
  return {data<Element>(in[0]), data<Element>(in[1]), data<Element>(in[2]),      data<Element>(in[3]),
          data<Element>(in[4]), data<Element>(in[5]), data<float>(initial_state)};
}

template <class Element>
Wkv7CudaGradients<Element> gradients_of(const Wkv7Backward& out) {
  const Wkv7Tensors& x = out.inputs;
  return {data<Element>(x[0]), data<Element>(x[1]), data<Element>(x[2]),           data<Element>(x[3]),
          data<Element>(x[4]), data<Element>(x[5]), data<float>(out.initial_state)};
}

at::Tensor bytes_on(const at::Tensor& like, std::size_t bytes) {
  return at::empty({static_cast<std::int64_t>(bytes)}, like.options().dtype(at::kByte));
}

void check_launch(const char* what, int status) {
  WN_CHECK(status == 0, "wkv7: {} could not be launched: {}", what,
           cudaGetErrorString(static_cast<cudaError_t>(status)));
}

bool tensor_cores(const Wkv7Tensors& in) { return in[0].scalar_type() == at::kBFloat16; }

}  // namespace

Wkv7Forward wkv7_forward_on_cuda(const Wkv7Problem& p, const Wkv7Tensors& in, const at::Tensor& initial_state,
                                 bool differentiable) {
  const c10::cuda::CUDAGuard device(in[0].device());
  const Tables tables = tables_of(p, in[0]);
  const int H = static_cast<int>(p.H), N = static_cast<int>(p.N);
  void* stream = c10::cuda::getCurrentCUDAStream().stream();
  Wkv7Forward out;
  out.y = at::empty(in[0].sizes(), in[0].options());
  out.final_state = at::empty({p.states, p.H, p.N, p.N}, in[0].options().dtype(at::kFloat));
  if (tensor_cores(in)) {
    if (differentiable) out.kept = at::empty({tables.chunks.chunks, p.H, p.N, p.N}, in[0].options());
    const at::Tensor workspace = bytes_on(in[0], wkv7_cuda_forward_workspace(tables.chunks, H, N));
    check_launch(
        "the forward pass",
        wkv7_cuda_forward(tables.chunks, H, N, inputs_of<Bf16>(in, initial_state), data<Bf16>(out.y),
                          data<float>(out.final_state), data<Bf16>(out.kept), data<void>(workspace), stream));
  } else {
    const Wkv7Sequence& last = p.sequences.back();
    const std::int64_t kept = (last.kept + wkv7_kept_states(last.length)) * p.H;
    if (differentiable) out.kept = at::empty({kept, p.N, p.N}, in[0].options());
    const at::Tensor workspace = bytes_on(in[0], wkv7_cuda_fp32_workspace(tables.chunks, H, N));
    check_launch("the fp32 forward pass",
                 wkv7_cuda_fp32_forward(tables.chunks, H, N, inputs_of<float>(in, initial_state),
                                        data<float>(out.y), data<float>(out.final_state),
                                        data<float>(out.kept), data<void>(workspace), stream));
  }
  return out;
}

Wkv7Backward wkv7_backward_on_cuda(const Wkv7Problem& p, const Wkv7Tensors& in,
                                   const at::Tensor& initial_state, const at::Tensor& kept,
                                   const at::Tensor& grad_y, const at::Tensor& grad_final_state) {
  const c10::cuda::CUDAGuard device(in[0].device());
  const Tables tables = tables_of(p, in[0]);
  const int H = static_cast<int>(p.H), N = static_cast<int>(p.N);
  void* stream = c10::cuda::getCurrentCUDAStream().stream();
  Wkv7Backward out;
  for (at::Tensor& gradient : out.inputs) gradient = at::empty(in[0].sizes(), in[0].options());
  // An initial state that a document's start drops has no gradient.
  if (initial_state.defined()) out.initial_state = at::zeros(initial_state.sizes(), initial_state.options());
  const at::Tensor dy = grad_y.defined() ? grad_y : at::zeros(in[0].sizes(), in[0].options());
  if (tensor_cores(in)) {
    const at::Tensor workspace = bytes_on(in[0], wkv7_cuda_backward_workspace(tables.chunks, H, N));
    check_launch("the backward pass",
                 wkv7_cuda_backward(tables.chunks, H, N, inputs_of<Bf16>(in, initial_state), data<Bf16>(kept),
                                    data<Bf16>(dy), data<float>(grad_final_state), gradients_of<Bf16>(out),
                                    data<void>(workspace), stream));
  } else {
    const at::Tensor workspace = bytes_on(in[0], wkv7_cuda_fp32_workspace(tables.chunks, H, N));
    check_launch("the fp32 backward pass",
                 wkv7_cuda_fp32_backward(tables.chunks, H, N, inputs_of<float>(in, initial_state),
                                         data<float>(kept), data<float>(dy), data<float>(grad_final_state),
                                         gradients_of<float>(out), data<void>(workspace), stream));
  }
  return out;
}

}  // namespace wuneng::kernels

#else  // the check of the operator's inputs refuses CUDA tensors before these are reached

namespace wuneng::kernels {

Wkv7Forward wkv7_forward_on_cuda(const Wkv7Problem&, const Wkv7Tensors&, const at::Tensor&, bool) {
  throw Error("wkv7: this build has no CUDA");
}

Wkv7Backward wkv7_backward_on_cuda(const Wkv7Problem&, const Wkv7Tensors&, const at::Tensor&,
                                   const at::Tensor&, const at::Tensor&, const at::Tensor&) {
  throw Error("wkv7: this build has no CUDA");
}

}  // namespace wuneng::kernels

#endif
