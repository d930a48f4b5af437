#include "trainer/run_clock.h"

#include <gtest/gtest.h>

namespace wuneng::trainer {
namespace {

TEST(RunClock, AsksForNothingByDefault) {
  RunClock clock{TrainerConfig()};
  clock.step_took(1e6);
  EXPECT_EQ(clock.request(1e9), Request::none);
}

TEST(RunClock, LeavesTimeForTheLastStepAndSave) {
  TrainerConfig config;
  config.time_limit = 100;
  RunClock clock(config);
  clock.step_took(7.0);
  clock.step_took(2.0);
  clock.save_took(3.0);
  EXPECT_EQ(clock.request(79.9), Request::none);
  EXPECT_EQ(clock.request(80.0), Request::save_and_stop);
  EXPECT_TRUE(clock.time_is_up(80.0));
}

TEST(RunClock, SavesEverySoManyMinutesSinceTheLastSave) {
  TrainerConfig config;
  config.checkpoint.every_minutes = 2;
  RunClock clock(config);
  EXPECT_EQ(clock.request(119.0), Request::none);
  EXPECT_EQ(clock.request(120.0), Request::save);
  clock.save_began(130.0);
  EXPECT_EQ(clock.request(249.0), Request::none);
  EXPECT_EQ(clock.request(250.0), Request::save);
}

}  // namespace
}  // namespace wuneng::trainer
