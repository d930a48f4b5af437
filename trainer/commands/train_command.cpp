#include <cstdio>

#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/config.h"

namespace wuneng::trainer {

Command add_train(CLI::App& program) {
  struct Flags {
    std::string config, output;
    std::vector<std::string> overrides;
    bool print_config = false, progress = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand("train", "Train a model, or go on with a run");
  app->add_option("CONFIG", flags->config, "YAML file; every key is listed by: wuneng help config")
      ->required();
  app->add_option("--set", flags->overrides, "Override a key, e.g. --set optimizer.lr=1e-3 (may be repeated)")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app->add_option("--output", flags->output, "Run folder; the same command again goes on with the run in it")
      ->type_name("RUN");
  app->add_flag("--print-config", flags->print_config, "Show the resolved configuration and stop");
  app->add_flag("--progress", flags->progress,
                "Show the progress line although standard error is not a terminal");
  app->footer(
      "Signals: USR1, TERM and INT save and stop (exit code 3); USR2 saves and goes on.\n"
      "Several processes: mpirun -n 2 wuneng train CONFIG --output RUN");
  return {app, [flags](Invocation& invocation) {
            Config config;
            agree(invocation.world.communicator(), [&] {
              config = load_config(flags->config, flags->overrides);
              WN_REQUIRE(flags->print_config || !flags->output.empty(),
                         "--output RUN: is needed, to know where the run is kept");
            });
            if (flags->print_config) {
              if (invocation.world.rank() == 0) std::fputs(to_yaml(config).c_str(), stdout);
              return ExitCode::done;
            }
            TrainOptions options;
            options.output = flags->output;
            options.command_line = invocation.command_line;
            options.progress_line = flags->progress;
            return train(config, options, invocation.world, invocation.activity);
          }};
}

}  // namespace wuneng::trainer
