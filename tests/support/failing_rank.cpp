// failing_rank HOW RANK STEP CONFIG OUTPUT CORPUS: trains as the program does, until the given rank fails
// before the given step: by `throw` or by `crash`.
#include <csignal>
#include <cstdlib>
#include <string>

#include "trainer/agreement.h"
#include "trainer/train.h"

int main(int argc, char** argv) {
  using namespace wuneng;
  if (argc != 7) return 2;
  const std::string how = argv[1];
  const int rank = std::atoi(argv[2]), step = std::atoi(argv[3]);
  parallel::World world;
  trainer::Activity activity;
  const auto body = [&] {
    const trainer::Config config =
        trainer::load_config(argv[4], {std::string("data.train=") + argv[6], "trainer.steps=100000"});
    trainer::TrainOptions options;
    options.output = argv[5];
    options.before_step = [&](std::int64_t next) {
      if (world.rank() != rank || next != step) return;
      if (how == "crash") std::raise(SIGSEGV);
      throw Error("the test's fault");
    };
    return trainer::train(config, options, world, activity);
  };
  return trainer::run_guarded(world, body, [&] { return activity.describe(); });
}
