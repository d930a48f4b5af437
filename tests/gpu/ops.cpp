// The operators of kernels/ in Python: torch.ops.load_library(".../libwuneng_ops.so"), then
// torch.ops.wuneng.wkv7(...). Thin: checks, dispatch on the device and autograd are the operators' own.
#include <torch/library.h>

#include "common/check.h"
#include "kernels/linear_cross_entropy.h"
#include "kernels/state_head.h"
#include "kernels/token_shift.h"
#include "kernels/wkv7/wkv7.h"

#ifdef WUNENG_WITH_CUDA
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>

extern "C" int wuneng_conformance(std::uint32_t* out, void* stream);
extern "C" int wuneng_conformance_words();
#endif

namespace wuneng::kernels {
namespace {

using Optional = std::optional<at::Tensor>;

std::tuple<at::Tensor, at::Tensor> wkv7_op(const at::Tensor& r, const at::Tensor& log_decay,
                                           const at::Tensor& k, const at::Tensor& v, const at::Tensor& a,
                                           const at::Tensor& b, const Optional& initial_state,
                                           const Optional& document_starts, bool states_per_document) {
  const auto out = wkv7(r, log_decay, k, v, a, b, initial_state.value_or(at::Tensor()),
                        document_starts.value_or(at::Tensor()),
                        states_per_document ? StatesPer::document : StatesPer::row);
  return {out.y, out.final_state};
}

std::vector<at::Tensor> token_shift_op(const at::Tensor& x, const at::Tensor& mix, const Optional& previous,
                                       const Optional& document_starts) {
  return token_shift(x, mix, previous.value_or(at::Tensor()), document_starts.value_or(at::Tensor()));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> prepare_op(const at::Tensor& decay_logit,
                                                                      const at::Tensor& rate_logit,
                                                                      const at::Tensor& k,
                                                                      const at::Tensor& removal,
                                                                      const at::Tensor& replacement) {
  const auto out = prepare_state_head(decay_logit, rate_logit, k, removal, replacement);
  return {out.log_decay, out.k, out.a, out.b};
}

std::tuple<at::Tensor, at::Tensor> linear_cross_entropy_op(const at::Tensor& hidden, const at::Tensor& weight,
                                                           const at::Tensor& targets, std::int64_t vocab_size,
                                                           double z_loss, double pull) {
  const auto out = linear_cross_entropy(hidden, weight, targets, vocab_size, {z_loss, pull});
  return {out.objective, out.losses};
}

// What every primitive of kernels/device/warp.cuh leaves in every register, as the current device computes
// it.
at::Tensor conformance_op() {
#ifdef WUNENG_WITH_CUDA
  const at::Tensor words =
      at::empty({wuneng_conformance_words()}, at::TensorOptions(at::kCUDA).dtype(at::kInt));
  const int status =
      wuneng_conformance(reinterpret_cast<std::uint32_t*>(words.mutable_data_ptr<std::int32_t>()),
                         c10::cuda::getCurrentCUDAStream().stream());
  WN_CHECK(status == 0, "conformance: the kernel could not be launched: {}",
           cudaGetErrorString(static_cast<cudaError_t>(status)));
  return words;
#else
  throw Error("conformance: this build has no CUDA");
#endif
}

}  // namespace

TORCH_LIBRARY(wuneng, m) {
  m.def(
      "wkv7(Tensor r, Tensor log_decay, Tensor k, Tensor v, Tensor a, Tensor b, Tensor? initial_state=None, "
      "Tensor? document_starts=None, bool states_per_document=False) -> (Tensor y, Tensor final_state)",
      wkv7_op);
  m.def("token_shift(Tensor x, Tensor mix, Tensor? previous=None, Tensor? document_starts=None) -> Tensor[]",
        token_shift_op);
  m.def(
      "prepare_state_head(Tensor decay_logit, Tensor rate_logit, Tensor k, Tensor removal, Tensor "
      "replacement) "
      "-> (Tensor log_decay, Tensor k, Tensor a, Tensor b)",
      prepare_op);
  m.def(
      "finish_state_head(Tensor y, Tensor r, Tensor k, Tensor v, Tensor gate, Tensor bonus, Tensor weight, "
      "Tensor bias, float eps) -> Tensor",
      finish_state_head);
  m.def("mix_values(Tensor v, Tensor first, Tensor logit) -> Tensor", mix_values);
  m.def(
      "linear_cross_entropy(Tensor hidden, Tensor weight, Tensor targets, int vocab_size, float z_loss=0.0, "
      "float pull=0.0) -> (Tensor objective, Tensor losses)",
      linear_cross_entropy_op);
  m.def("conformance() -> Tensor", conformance_op);
}

}  // namespace wuneng::kernels
