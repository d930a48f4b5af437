#include <cstdio>

#include "trainer/commands/commands.h"
#include "trainer/export.h"
#include "trainer/formats/format.h"

namespace wuneng::trainer {

Command add_export(CLI::App& program) {
  struct Flags {
    std::string checkpoint, format = "safetensors", out;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand("export", "Write a model for other programs");
  app->add_option("CHECKPOINT", flags->checkpoint, "Checkpoint folder, or run folder (its newest checkpoint)")
      ->required();
  app->add_option("OUT", flags->out, "File to write (llama, gpt2: folder)")->required();
  app->add_option("--format", flags->format, formats_help())->capture_default_str();
  return {app, [flags](Invocation& invocation) {
            require_one_process(invocation, "export");
            const auto alone = parallel::make_single();
            export_model(SavedModel(flags->checkpoint, *alone), flags->format, flags->out);
            fmt::print("wrote {} ({})\n", flags->out, flags->format);
            return ExitCode::done;
          }};
}

}  // namespace wuneng::trainer
