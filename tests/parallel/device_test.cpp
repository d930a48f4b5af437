// Where ranks compute, and which of its groups carries a tensor.
#include "parallel/device.h"

#include <ATen/ops/empty.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/check.h"
#include "parallel/by_device.h"
#include "parallel/fake.h"

namespace wuneng::parallel {
namespace {

at::Tensor on(at::DeviceType device, std::int64_t elements = 8) {
  return at::empty({elements}, at::device(device).dtype(at::kFloat));
}

TEST(ByDevice, TensorsGoThroughTheGroupOfTheirDevice) {
  auto host = std::make_unique<Fake>(0, 2), device = std::make_unique<Fake>(0, 2);
  const Fake &of_host = *host, &of_device = *device;
  const auto both = make_by_device(std::move(host), std::move(device));
  both->all_reduce_sum(on(at::kCPU));
  both->broadcast(on(at::kMeta), 0);
  both->all_gather(on(at::kMeta), on(at::kMeta, 16));
  both->reduce_scatter_sum(on(at::kMeta, 16), on(at::kMeta));
  both->all_to_all(on(at::kMeta), on(at::kMeta));
  const auto calls = [](const Fake& group) {
    std::vector<std::string> names;
    for (const auto& [name, traffic] : group.traffic()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(calls(of_host), testing::UnorderedElementsAre("all_reduce_sum"));
  EXPECT_THAT(calls(of_device),
              testing::UnorderedElementsAre("broadcast", "all_gather", "reduce_scatter_sum", "all_to_all"));
  EXPECT_EQ(both->size(), 2);
}

TEST(Device, TheCpuIsThereAlways) {
  const Device device = choose_device({.device = DeviceKind::cpu}, {.rank = 3, .size = 4});
  EXPECT_TRUE(device.where.is_cpu());
  EXPECT_EQ(device.name, "CPU");
  EXPECT_EQ(with_device(make_single(), device, std::chrono::seconds(1))->size(), 1);
}

TEST(Device, AutoTakesTheCpuWhereThereIsNoGpuAndCudaSaysWhatIsMissing) {
  if (!choose_device({}, {}).where.is_cpu()) GTEST_SKIP() << "this host has a GPU";
  try {
    choose_device({.device = DeviceKind::cuda}, {});
    FAIL() << "took a GPU that is not there";
  } catch (const UsageError& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("parallel.device = cuda: "));
    EXPECT_THAT(error.what(), testing::HasSubstr("set parallel.device=cpu"));
  }
}

}  // namespace
}  // namespace wuneng::parallel
