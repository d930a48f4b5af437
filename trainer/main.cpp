// wuneng: train, ablate, evaluate, generate, tokenize, inspect, export and import hybrid language models.
// Each command lives in trainer/commands/.
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "common/memory.h"
#include "common/version.h"
#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/crash_report.h"
#include "trainer/launch.h"

namespace {

using namespace wuneng;

// Must happen before the first matrix product and the first large allocation.
void set_up_process() {
  // The bits of LibTorch's products must not depend on the number of threads or on where the operands lie.
  setenv("MKL_CBWR", "AUTO,STRICT", /*overwrite=*/0);
  keep_freed_memory();
}

std::string joined(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) line += fmt::format("{}{}", i ? " " : "", argv[i]);
  return line;
}

ExitCode run_program(int argc, char** argv, parallel::World& world, trainer::Activity& activity) {
  CLI::App program("WuNeng: pretrains language models of attention heads and RWKV-7 state heads.", "wuneng");
  program.set_version_flag("--version", trainer::build_identity());
  program.require_subcommand(1);
  program.footer(
      "Exit codes: 0 done, 1 failed while running, 2 wrong usage or configuration, 3 stopped by a signal "
      "after saving.\n"
      "Help on one command: wuneng train --help; on every configuration key: wuneng help config");
  std::vector<trainer::Command> commands;
  for (const auto add : {trainer::add_train, trainer::add_evaluate, trainer::add_generate,
                         trainer::add_tokenize, trainer::add_inspect, trainer::add_export,
                         trainer::add_import, trainer::add_ablate, trainer::add_help})
    commands.push_back(add(program));
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& error) {  // also how --help and --version end
    const bool fine = error.get_exit_code() == 0;
    if (world.rank() == 0) program.exit(error);
    return fine ? ExitCode::done : ExitCode::usage;
  }
  trainer::Invocation invocation{world, activity, joined(argc, argv)};
  for (const trainer::Command& command : commands)
    if (command.app->parsed()) return command.run(invocation);
  return ExitCode::usage;
}

}  // namespace

int main(int argc, char** argv) {
  set_up_process();
  try {
    parallel::World world;
    trainer::Activity activity;
    const trainer::CrashReport crash_report(world, activity);
    return trainer::run_guarded(
        world, [&] { return run_program(argc, argv, world, activity); }, [&] { return activity.describe(); });
  } catch (const Error& error) {  // no world: MPI itself did not start as it should
    std::fprintf(stderr, "wuneng: error: %s\n", error.what());
    return static_cast<int>(error.code());
  }
}
