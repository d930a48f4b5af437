// failing_rank HOW RANK STEP CONFIG OUTPUT CORPUS: trains as the program does, until the given rank fails
// before the given step: by `throw`, by `crash`, or by `hang`. More arguments override keys.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

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
      if (world.rank() != rank || next != step) return;
      if (how == "crash") crash_here();
      if (how == "hang") hang_for_ever();
      throw Error("the test's fault");
    };
    return trainer::train(config, options, world, activity);
  };
  return trainer::run_guarded(world, body, [&] { return activity.describe(); });
}
