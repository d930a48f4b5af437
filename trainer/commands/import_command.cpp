#include <cstdio>
#include <nlohmann/json.hpp>

#include "parallel/mesh.h"
#include "trainer/commands/commands.h"
#include "trainer/formats/format.h"
#include "trainer/import.h"
#include "trainer/launch.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  ImportSource source;
  std::string path, output;
};

ExitCode run(const Flags& flags, Invocation& invocation) {
  require_one_process(invocation, "import");
  require_new_run(flags.output);
  ImportSource source = flags.source;
  source.path = flags.path;
  const ImportedModel imported = import_model(source);
  write_imported_run(imported, flags.output,
                     launch_record(invocation.command_line, invocation.world,
                                   parallel::resolved(imported.config.parallel, 1), parallel::Device().name));
  std::int64_t numbers = 0;
  for (const parallel::Parameter& parameter : imported.parameters) numbers += parameter.value.numel();
  fmt::print(
      "{}: {} parameters of {} as step 0 of a run{}\n"
      "train on: wuneng train {}/config.yaml --set data.train=PREFIX --output {}\n",
      flags.output, numbers, flags.path, imported.tokenizer.empty() ? ", without a tokenizer" : "",
      flags.output, flags.output);
  return ExitCode::done;
}

}  // namespace

Command add_import(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand("import", "Make a run of another program's model, to train it on");
  app->add_option("PATH", flags->path, "File or folder of the model, as its format has it")->required();
  app->add_option("--format", flags->source.format, formats_help())->required();
  app->add_option("--set", flags->source.overrides,
                  "Set a key that the file does not tell, e.g. --set optimizer.lr=1e-4 (may be repeated)")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app->add_option("--tokenizer", flags->source.tokenizer,
                  "bytes, or a tokenizer's JSON file, to keep with the model")
      ->type_name("NAME");
  app->add_option("--output", flags->output, "Run folder to make")->type_name("RUN")->required();
  app->footer(
      "rwkv also reads a .safetensors file of the official names. No data was read yet: any corpus may "
      "follow.\n"
      "Keys that a run must keep, such as optimizer.lr and data.sequence_length, are set here, and not when "
      "training on.");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
