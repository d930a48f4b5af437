#include "trainer/checkpoint/saver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/trainer/checkpoint_support.h"

namespace wuneng::trainer {
namespace {

using testing::HasSubstr;
using tests::Scratch;

// Training goes on with the values while they are written.
TEST(CheckpointSaver, WritesTheValuesThatItWasGiven) {
  const Scratch scratch;
  const auto alone = parallel::make_single();
  CheckpointSaver saver(scratch.path(), {}, *alone);
  for (const std::int64_t step : {1, 2, 3}) {
    const NamedTensors model = model_at(step), optimizer = optimizer_at(step);
    saver.begin(info_at(step), model_and_optimizer(model, optimizer));
    for (const auto& [name, tensor] : model) tensor.zero_();
    for (const auto& [name, tensor] : optimizer) tensor.zero_();
    const auto outcome = saver.wait();
    ASSERT_TRUE(outcome);
    EXPECT_EQ(outcome->error, "");
    expect_intact(outcome->folder);
  }
}

TEST(CheckpointSaver, ValuesThatAreNotFiniteAreNotSaved) {
  const Scratch scratch;
  const auto alone = parallel::make_single();
  CheckpointSaver saver(scratch.path(), {}, *alone);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf})
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL})
      for (const std::int64_t place : {0, 1234, 9999}) {
        const at::Tensor values = at::full({10000}, 1.0, dtype);
        values[place] = bad;
        saver.begin(info_at(1), whole_tensors("model", {{"x", values}}));
        const auto outcome = saver.wait();
        ASSERT_TRUE(outcome);
        EXPECT_THAT(outcome->error, HasSubstr("model x: holds values that are not finite")) << dtype << bad;
        EXPECT_FALSE(std::filesystem::exists(outcome->folder));
      }
}

}  // namespace
}  // namespace wuneng::trainer
