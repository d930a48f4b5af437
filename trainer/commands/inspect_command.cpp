#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/check.h"
#include "model/cost.h"
#include "trainer/commands/commands.h"
#include "trainer/commands/inspect_checkpoint.h"
#include "trainer/feed_forward_match.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string subject, match, compare;
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

// The Transformer that is left of a model without its state heads and what joins them.
std::optional<model::ModelConfig> without_state_heads(model::ModelConfig config) {
  if (config.attention.heads == 0) return std::nullopt;
  config.state = {.heads = 0};
  config.fusion.mode = model::FusionMode::concat;
  config.middle = {};
  config.pattern = "h";
  return config;
}

Json describe_model(const Config& config) {
  Json components = Json::object();
  std::int64_t total = 0;
  for (const parallel::Parameter& parameter : model::LanguageModel::parameter_shapes(config.model)) {
    Json& count = components[component_of(parameter.name)];
    count = (count.is_null() ? std::int64_t{0} : count.get<std::int64_t>()) + parameter.value.numel();
    total += parameter.value.numel();
  }
  const std::int64_t T = config.data.sequence_length;
  const model::ForwardFlops flops = model::forward_flops(config.model, T);
  const model::SequenceBytes bytes = model::sequence_bytes(config.model, T);
  const model::ActivationBytes activations = model::activation_bytes(config.model, T);
  Json facts{{"parameters", total},
             {"components", components},
             {"sequence_length", T},
             {"layers", config.model.layers},
             {"forward_flops_per_token", flops.total()},
             {"forward_flops",
              {{"attention", flops.attention},
               {"state", flops.state},
               {"fusion", flops.fusion},
               {"feed_forward", flops.feed_forward},
               {"head", flops.head}}},
             {"activation_bytes_per_token", activations.total()},
             {"activation_bytes",
              {{"residual", activations.residual},
               {"attention", activations.attention},
               {"state", activations.state},
               {"fusion", activations.fusion},
               {"feed_forward", activations.feed_forward},
               {"head", activations.head}}},
             {"micro_batch", config.trainer.micro_batch},
             {"key_value_cache_bytes_per_sequence", bytes.key_value_cache},
             {"state_bytes_per_sequence", bytes.states},
             {"training_bytes", 16.0 * static_cast<double>(total)}};
  if (const auto transformer = without_state_heads(config.model))
    facts["added_to_the_transformer"] =
        static_cast<double>(total) / static_cast<double>(count_parameters(*transformer)) - 1.0;
  return facts;
}

// "TITLE (attention 20.1 %, ...)": the parts in percent of their sum.
void print_shares(const std::string& title, const Json& parts) {
  double total = 0.0;
  std::vector<std::string> shares;
  for (const auto& [name, part] : parts.items()) total += part.get<double>();
  for (const auto& [name, part] : parts.items())
    shares.push_back(fmt::format("{} {:.1f} %", name, 100.0 * part.get<double>() / total));
  fmt::print("{} ({})\n", title, fmt::join(shares, ", "));
}

void print_model(const Json& facts) {
  const auto total = facts["parameters"].get<double>(), layers = facts["layers"].get<double>();
  fmt::print("{:<16} {:>14} {:>14} {:>7}\n", "component", "parameters", "per layer", "share");
  for (const auto& [name, count] : facts["components"].items()) {
    const bool of_layers = name != "embedding" && name != "head" && name != "final_norm" &&
                           name != "embedding_norm" && name != "positions";
    fmt::print("{:<16} {:>14} {:>14} {:>6.1f}%\n", name, count.get<std::int64_t>(),
               of_layers ? fmt::format("{:.0f}", count.get<double>() / layers) : "",
               100.0 * count.get<double>() / total);
  }
  fmt::print("{:<16} {:>14}\n", "total", facts["parameters"].get<std::int64_t>());
  if (facts.contains("added_to_the_transformer"))
    fmt::print("state and middle heads add {:.1f} % to the Transformer that is left without them\n",
               100.0 * facts["added_to_the_transformer"].get<double>());
  print_shares(
      fmt::format("\nforward at T = {}: {:.2f} MFLOP per token", facts["sequence_length"].get<std::int64_t>(),
                  facts["forward_flops_per_token"].get<double>() / 1e6),
      facts["forward_flops"]);
  constexpr double mebi = 1024.0 * 1024.0;
  const double micro_batch = facts["micro_batch"].get<double>(), T = facts["sequence_length"].get<double>();
  fmt::print("memory: {:.2f} MiB of parameters, gradients and optimizer\n",
             facts["training_bytes"].get<double>() / mebi);
  print_shares(fmt::format("activations of a micro-batch of {} x {} tokens: {:.2f} MiB", micro_batch, T,
                           facts["activation_bytes_per_token"].get<double>() * micro_batch * T / mebi),
               facts["activation_bytes"]);
  fmt::print(
      "per sequence of {} tokens while generating: {:.3f} MiB of keys and values, {:.3f} MiB of states\n", T,
      facts["key_value_cache_bytes_per_sequence"].get<double>() / mebi,
      facts["state_bytes_per_sequence"].get<double>() / mebi);
}

Json match_parameters(const Config& config, const Config& other) {
  const FeedForwardMatch match =
      match_feed_forward(config, static_cast<double>(count_parameters(other.model)), MatchedCost::parameters);
  WN_REQUIRE(match.within_tolerance(), "--match-parameters: {}", match.problem());
  return {{"model.ffn.hidden", match.hidden},
          {"parameters", static_cast<std::int64_t>(match.cost)},
          {"other_parameters", static_cast<std::int64_t>(match.target)},
          {"difference", match.difference()}};
}

ExitCode run(const Flags& flags, Invocation& invocation) {
  require_one_process(invocation, "inspect");
  if (std::filesystem::is_directory(flags.subject)) {
    WN_REQUIRE(flags.match.empty(), "--match-parameters: needs a configuration, but {} is a checkpoint",
               flags.subject);
    WN_REQUIRE(flags.overrides.empty(), "--set: changes a configuration, but {} is a checkpoint",
               flags.subject);
    const Checkpoint checkpoint(resolve_checkpoint(flags.subject));
    if (flags.verify) checkpoint.verify();
    if (!flags.compare.empty())
      print_difference(checkpoint, Checkpoint(resolve_checkpoint(flags.compare)), flags.json);
    else
      print_checkpoint(checkpoint, flags.json);
    if (flags.verify && !flags.json) fmt::print("every hash is right\n");
    return ExitCode::done;
  }
  WN_REQUIRE(!flags.verify, "--verify: checks a checkpoint, but {} is not a folder", flags.subject);
  WN_REQUIRE(flags.compare.empty(), "--compare: compares checkpoints, but {} is not a folder", flags.subject);
  const Config config = load_config(flags.subject, flags.overrides);
  if (!flags.match.empty()) {
    const Json match = match_parameters(config, load_config(flags.match));
    flags.json
        ? fmt::print("{}\n", match.dump(2))
        : fmt::print("--set model.ffn.hidden={}   # {} parameters against {}, {:+.2f} %\n",
                     match["model.ffn.hidden"].get<std::int64_t>(), match["parameters"].get<std::int64_t>(),
                     match["other_parameters"].get<std::int64_t>(),
                     100.0 * match["difference"].get<double>());
    return ExitCode::done;
  }
  const Json facts = describe_model(config);
  flags.json ? fmt::print("{}\n", facts.dump(2)) : print_model(facts);
  return ExitCode::done;
}

}  // namespace

Command add_inspect(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand(
      "inspect", "Parameters, FLOPs and memory of a configuration, or the contents of a checkpoint");
  app->add_option("SUBJECT", flags->subject, "Configuration file, checkpoint folder or run folder")
      ->required();
  app->add_option("--set", flags->overrides, "Override a key of the configuration")
      ->type_name("KEY=VALUE")
      ->expected(1)
      ->take_all();
  app->add_option(
         "--match-parameters", flags->match,
         "Print the feed-forward width at which the configuration has as many parameters as this one")
      ->type_name("CONFIG");
  app->add_flag("--json", flags->json, "Print JSON");
  app->add_flag("--verify", flags->verify, "Check every hash of a checkpoint");
  app->add_option("--compare", flags->compare,
                  "Show how this checkpoint, or run folder, differs from SUBJECT")
      ->type_name("CHECKPOINT");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
