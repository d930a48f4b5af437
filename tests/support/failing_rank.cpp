// failing_rank HOW RANK STEP CONFIG OUTPUT CORPUS: trains as the program does, until the given rank fails
// before the given step: by `throw`, by `crash`, by `hang`, or by leaving out what the others call in the
// background (`desert`). More arguments override keys.
#include <ATen/ops/zeros.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "parallel/background.h"
#include "trainer/agreement.h"
#include "trainer/crash_report.h"
#include "trainer/train.h"

// Named, to be found in stacks.
[[gnu::noinline]] void hang_for_ever() {
  std::fputs("hanging\n", stderr);
  for (;;) ::pause();
}
[[gnu::noinline]] void crash_here() {
  std::raise(SIGSEGV);
  std::puts("still alive");  // so that the call above is no jump
}

// All ranks but one wait for a call of all.
void wait_in_vain(wuneng::parallel::World& world, int deserter) {
  wuneng::parallel::Background background(world.communicator());
  if (world.rank() == deserter) hang_for_ever();
  const at::Tensor mine = at::zeros({1}), all = at::zeros({world.size()});
  background.submit([=](wuneng::parallel::Communicator& group) { group.all_gather(mine, all); });
  background.wait();
}

int main(int argc, char** argv) {
  using namespace wuneng;
  if (argc < 7) return 2;
  const std::string how = argv[1];
  const int rank = std::atoi(argv[2]), step = std::atoi(argv[3]);
  parallel::World world;
  trainer::Activity activity;
  const trainer::CrashReport crash_report(world, activity);
  const auto body = [&] {
    std::vector<std::string> overrides{std::string("data.train=") + argv[6], "trainer.steps=100000"};
    overrides.insert(overrides.end(), argv + 7, argv + argc);
    const trainer::Config config = trainer::load_config(argv[4], overrides);
    trainer::TrainOptions options;
    options.output = argv[5];
    options.before_step = [&](std::int64_t next) {
      if (how == "desert" && next == step) wait_in_vain(world, rank);
      if (world.rank() != rank || next != step) return;
      if (how == "crash") crash_here();
      if (how == "hang") hang_for_ever();
      throw Error("the test's fault");
    };
    return trainer::train(config, options, world, activity);
  };
  return trainer::run_guarded(world, body, [&] { return activity.describe(); });
}
