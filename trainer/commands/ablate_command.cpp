#include <cstdio>

#include "common/file.h"
#include "trainer/ablate/report.h"
#include "trainer/ablate/runner.h"
#include "trainer/commands/commands.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string file, output, launch, emit;
  ablate::Choices choices;
  std::int64_t jobs = 1;
  bool dry_run = false, report = false;
};

ExitCode run(const Flags& flags, Invocation& invocation) {
  require_one_process(invocation, "ablate");
  const ablate::Plan plan = ablate::make_plan(flags.file, flags.choices);
  const ablate::RunnerOptions options{std::filesystem::read_symlink("/proc/self/exe"), flags.jobs,
                                      ablate::words_of(flags.launch)};
  if (flags.dry_run) {
    std::fputs(ablate::dry_run_text(plan, options).c_str(), stdout);
    return ExitCode::done;
  }
  WN_REQUIRE(!flags.output.empty(), "--output DIR: is needed, to know where the ablation is kept");
  const ablate::Folder folder(flags.output);
  if (flags.report) {
    folder.check(plan);
    ablate::write_report(ablate::read_report_data(plan, folder), folder);
    fmt::print("{}\n", (folder.path() / "report.html").string());
    return ExitCode::done;
  }
  ablate::check_ready(plan, options);
  folder.open(plan);
  if (flags.emit == "slurm") {
    const std::filesystem::path script = folder.path() / "slurm.sbatch";
    write_file_atomically(script, ablate::slurm_script(plan, folder, options));
    fmt::print("sbatch {}\n", script.string());
    return ExitCode::done;
  }
  const ablate::FolderLock lock(folder);
  return ablate::run_all(plan, folder, options);
}

}  // namespace

Command add_ablate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand(
      "ablate", "Train variants of a configuration with several seeds and report what differs");
  app->add_option("FILE", flags->file, "What to compare; see configs/ablations")->required();
  app->add_option("--output", flags->output, "Folder of runs and report; the same command again goes on")
      ->type_name("DIR");
  app->add_option("--set", flags->choices.overrides, "Override a key of all variants (may be repeated)")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app->add_option("--size", flags->choices.size, "One of the file's `sizes:`, such as 125m")
      ->type_name("NAME");
  app->add_option("--seeds", flags->choices.seeds, "Instead of the file's, e.g. --seeds 1,2,3,4,5")
      ->type_name("LIST");
  app->add_option("--budget", flags->choices.budget, "Instead of the file's, e.g. --budget tokens=1e9")
      ->type_name("UNIT=AMOUNT");
  app->add_option("--jobs", flags->jobs, "Runs side by side, each on its share of the cores")
      ->check(CLI::Range(1, 10'000));
  app->add_option("--launch", flags->launch,
                  "Start each run behind these words, e.g. --launch \"mpirun -n 8\"")
      ->type_name("WORDS");
  app->add_option("--emit", flags->emit,
                  "Write DIR/slurm.sbatch, an array job of the runs, instead of running them")
      ->type_name("slurm")
      ->check(CLI::IsMember({"slurm"}));
  app->add_flag("--dry-run", flags->dry_run, "Show runs, parameters, FLOPs and estimated time, and stop");
  app->add_flag("--report", flags->report, "Only write the report of what there is so far");
  app->footer(
      "Signals: INT, TERM and USR1 save and stop all running runs (exit code 3). A run that fails stops no "
      "other;\n"
      "failures are listed at the end (exit code 1), and the same command tries them again.");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
