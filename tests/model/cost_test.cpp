#include "model/cost.h"

#include <ATen/ops/zeros.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <atomic>

#include "model/language_model.h"
#include "tests/model/every_model.h"

namespace wuneng::model {
namespace {

// LibTorch's allocator with a count of the bytes that are in use.
class CountingAllocator final : public c10::Allocator {
 public:
  CountingAllocator() : inner_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 100); }
  ~CountingAllocator() override { c10::SetCPUAllocator(inner_, 100); }

  std::int64_t in_use() const { return in_use_; }

  c10::DataPtr allocate(std::size_t bytes) override {
    in_use_ += static_cast<std::int64_t>(bytes);
    auto* block = new Block{this, bytes, inner_->allocate(bytes)};
    return {block->memory.get(), block, &CountingAllocator::release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  struct Block {
    CountingAllocator* owner;
    std::size_t bytes;
    c10::DataPtr memory;
  };
  static void release(void* pointer) {
    auto* block = static_cast<Block*>(pointer);
    block->owner->in_use_ -= static_cast<std::int64_t>(block->bytes);
    delete block;
  }

  c10::Allocator* inner_;
  std::atomic<std::int64_t> in_use_ = 0;
};

class CostOfEveryModel : public testing::TestWithParam<Named> {};
INSTANTIATE_TEST_SUITE_P(Configurations, CostOfEveryModel, testing::ValuesIn(every_model),
                         [](const auto& info) { return info.param.name; });

TEST_P(CostOfEveryModel, ActivationsTakeTheBytesThatAreStated) {
  const ModelConfig& config = GetParam().config;
  const auto group = parallel::make_single();
  const LanguageModel model(config, *group, 1);
  const std::int64_t T = config.learned_positions > 0 ? config.learned_positions : 640;
  // Between two numbers of rows, so that what does not grow with them drops out.
  const auto kept = [&](std::int64_t rows) {
    const at::Tensor ids = tokens(rows, T), targets = tokens(rows, T, 9);
    CountingAllocator counter;
    const auto loss = model.loss(ids, targets);
    return counter.in_use();
  };
  const auto measured = static_cast<double>(kept(3) - kept(1)) / static_cast<double>(2 * T);
  EXPECT_NEAR(activation_bytes(config, T).total() / measured, 1.0, 0.03) << measured << " bytes per token";
}

}  // namespace
}  // namespace wuneng::model
