#include "parallel/device.h"

#include <ATen/Context.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "common/check.h"
#include "parallel/by_device.h"
#include "parallel/host_staged.h"
#ifdef WUNENG_WITH_CUDA
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime.h>
#endif
#ifdef WUNENG_WITH_NCCL
#include "parallel/nccl.h"
#endif

namespace wuneng::parallel {
namespace {

#ifdef WUNENG_WITH_CUDA
// Of this host, and why there are none.
std::pair<int, std::string> count_gpus() {
  int count = 0;
  const cudaError_t result = cudaGetDeviceCount(&count);
  if (result != cudaSuccess) return {0, cudaGetErrorString(result)};
  return {count, count == 0 ? "CUDA finds none" : ""};
}

// LibTorch's operators for CUDA register themselves when their library is loaded.
void load_cuda_operators() {
  WN_REQUIRE(
      dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) != nullptr,
      "parallel.device = cuda: LibTorch's operators for CUDA cannot be loaded: {}; install LibTorch with "
      "CUDA and its libraries, or set parallel.device=cpu",
      dlerror());
}

std::string loaded_libraries() {
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  cudaDriverGetVersion(&driver);
  const auto version = [](int number) {  // 13010 is 13.1
    return fmt::format("{}.{}", number / 1000, number % 1000 / 10);
  };
  std::string text = fmt::format("CUDA {}, driver for {}", version(runtime), version(driver));
#ifdef WUNENG_WITH_NCCL
  text += ", NCCL " + nccl_version();
#endif
  return text;
}

Device gpu_of(HostRank host, int gpus, bool share) {
  WN_REQUIRE(
      host.size <= gpus || share,
      "{} processes on a host with {} GPU(s): start one for each GPU, or set parallel.share_gpus=true to "
      "let them share, which is slow",
      host.size, gpus);
  load_cuda_operators();
  ::setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8",
           /*overwrite=*/0);  // else products may change from run to run
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/true);
  const int index = host.rank % gpus;
  c10::cuda::set_device(static_cast<c10::DeviceIndex>(index));
  cudaDeviceProp properties{};
  const cudaError_t result = cudaGetDeviceProperties(&properties, index);
  WN_REQUIRE(result == cudaSuccess, "GPU {} cannot be used: {}", index, cudaGetErrorString(result));
  return {at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(index)), host.size > gpus, properties.name,
          loaded_libraries()};
}
#endif

}  // namespace

Device choose_device([[maybe_unused]] const ParallelConfig& config, [[maybe_unused]] HostRank host) {
  if (config.device == DeviceKind::cpu) return {};
#ifdef WUNENG_WITH_CUDA
  const auto [gpus, why] = count_gpus();
  if (gpus > 0) return gpu_of(host, gpus, config.share_gpus);
  WN_REQUIRE(config.device == DeviceKind::automatic,
             "parallel.device = cuda: this host has no GPU that can be used: {}; set parallel.device=cpu",
             why);
#else
  WN_REQUIRE(
      config.device == DeviceKind::automatic,
      "parallel.device = cuda: this program was built without CUDA: build it with -DWUNENG_CUDA=ON, or "
      "set parallel.device=cpu");
#endif
  return {};
}

std::unique_ptr<Communicator> with_device(std::unique_ptr<Communicator> group, const Device& device,
                                          [[maybe_unused]] std::chrono::seconds limit) {
  if (device.where.is_cpu()) return group;
  if (group->size() == 1) return make_single();
  std::unique_ptr<Communicator> control = group->split(0);
  const std::vector<std::string> shared = group->all_gather_text(device.shared ? "shared" : "");
  if (std::ranges::find(shared, "shared") != shared.end())
    return make_by_device(std::move(group), make_host_staged(std::move(control)));
#ifdef WUNENG_WITH_NCCL
  return make_by_device(std::move(group), make_nccl(std::move(control), device.where.index(), limit));
#else
  throw UsageError(
      "several GPUs need NCCL, which this program was built without: install it by scripts/setup.sh --tests, "
      "or set parallel.device=cpu");
#endif
}

}  // namespace wuneng::parallel
