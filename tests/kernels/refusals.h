#pragma once

#include <ATen/ops/from_blob.h>

#include <string>

#include "common/check.h"
#include "kernels/op.h"

namespace wuneng::kernels::tests {

// Looks like a tensor on a GPU to everything that reads no element; it lies `offset` bytes past a multiple
// of 16.
inline at::Tensor pretended_cuda(at::IntArrayRef shape, at::ScalarType dtype, std::size_t offset = 0,
                                 at::DeviceIndex index = 0) {
  alignas(16) static std::byte memory[32];
  const at::Device device(at::kCUDA, index);
  return at::for_blob(memory + offset, shape)
      .options(at::TensorOptions().dtype(dtype).device(device))
      .target_device(device)
      .make_tensor();
}

// The message with which `call` refuses, empty when it does not.
template <class Call>
std::string refusal(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

// The same for what a build with CUDA refuses with a message of its own, and one without for that reason.
template <class Call>
std::string cuda_refusal(const Call& call, const std::string& message) {
  const std::string text = refusal(call), wanted = with_cuda ? message : "this build has no CUDA";
  return text.find(wanted) == std::string::npos ? "'" + text + "' does not say '" + wanted + "'" : "";
}

}  // namespace wuneng::kernels::tests
