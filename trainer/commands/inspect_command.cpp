#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "common/hash.h"
#include "model/flops.h"
#include "trainer/commands/commands.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string subject;
  std::vector<std::string> overrides;
  bool json = false, verify = false;
};

// Component of a parameter: "layers.3.attention.query.weight" belongs to "attention".
std::string component_of(const std::string& name) {
  const auto dot = [&](std::size_t from) { return name.find('.', from); };
  if (!name.starts_with("layers.")) return name.substr(0, dot(0));
  const std::size_t begin = dot(dot(0) + 1) + 1;
  return name.substr(begin, dot(begin) - begin);
}

Json describe_model(const Config& config) {
  const auto alone = parallel::make_single();
  const model::LanguageModel model(config.model, *alone, 0);
  Json components = Json::object();
  for (const parallel::Parameter& parameter : model.parameters()) {
    Json& count = components[component_of(parameter.name)];
    count = (count.is_null() ? std::int64_t{0} : count.get<std::int64_t>()) + parameter.value.numel();
  }
  return {
      {"parameters", model.parameter_count()},
      {"components", components},
      {"sequence_length", config.data.sequence_length},
      {"forward_flops_per_token", model::forward_flops_per_token(config.model, config.data.sequence_length)}};
}

void print_model(const Json& facts) {
  const auto total = facts["parameters"].get<double>();
  fmt::print("{:<16} {:>14} {:>7}\n", "component", "parameters", "share");
  for (const auto& [name, count] : facts["components"].items())
    fmt::print("{:<16} {:>14} {:>6.1f}%\n", name, count.get<std::int64_t>(),
               100.0 * count.get<double>() / total);
  fmt::print("{:<16} {:>14}\nforward: {:.2f} MFLOP per token at T = {}\n", "total",
             facts["parameters"].get<std::int64_t>(), facts["forward_flops_per_token"].get<double>() / 1e6,
             facts["sequence_length"].get<std::int64_t>());
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

Json describe_checkpoint(const Checkpoint& checkpoint) {
  const Position& position = checkpoint.info().position;
  Json tensors = Json::array();
  for (const Checkpoint::Row& row : checkpoint.tensors())
    tensors.push_back({{"part", row.part},
                       {"name", row.name},
                       {"dtype", c10::toString(row.entry.dtype)},
                       {"shape", row.entry.shape},
                       {"bytes", row.entry.bytes},
                       {"xxh3", hex(row.hash)}});
  return {{"folder", checkpoint.folder().string()},
          {"step", position.step},
          {"samples", position.samples},
          {"tokens", position.tokens},
          {"data_hash", hex(checkpoint.info().data_hash)},
          {"tensors", tensors}};
}

void print_checkpoint(const Checkpoint& checkpoint) {
  const Position& position = checkpoint.info().position;
  fmt::print("{}\nstep {}, {} samples, {} tokens\n", checkpoint.folder().string(), position.step,
             position.samples, position.tokens);
  for (const Checkpoint::Row& row : checkpoint.tensors())
    fmt::print("{:<10} {:<44} {:<8} {:<14} {}\n", row.part, row.name, c10::toString(row.entry.dtype),
               shape_text(row.entry.shape), hex(row.hash));
}

ExitCode run(const Flags& flags, Invocation& invocation) {
  require_one_process(invocation, "inspect");
  if (std::filesystem::is_directory(flags.subject)) {
    WN_REQUIRE(flags.overrides.empty(), "--set: changes a configuration, but {} is a checkpoint",
               flags.subject);
    const Checkpoint checkpoint(resolve_checkpoint(flags.subject));
    if (flags.verify) checkpoint.verify();
    flags.json ? fmt::print("{}\n", describe_checkpoint(checkpoint).dump(2)) : print_checkpoint(checkpoint);
    if (flags.verify && !flags.json) fmt::print("every hash is right\n");
    return ExitCode::done;
  }
  WN_REQUIRE(!flags.verify, "--verify: checks a checkpoint, but {} is not a folder", flags.subject);
  const Json facts = describe_model(load_config(flags.subject, flags.overrides));
  flags.json ? fmt::print("{}\n", facts.dump(2)) : print_model(facts);
  return ExitCode::done;
}

}  // namespace

Command add_inspect(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand(
      "inspect", "Parameters and FLOPs of a configuration, or the contents of a checkpoint");
  app->add_option("SUBJECT", flags->subject, "Configuration file, checkpoint folder or run folder")
      ->required();
  app->add_option("--set", flags->overrides, "Override a key of the configuration")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app->add_flag("--json", flags->json, "Print JSON");
  app->add_flag("--verify", flags->verify, "Check every hash of a checkpoint");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
