#include <ATen/Parallel.h>

#include <cstdio>

#include "model/generation.h"
#include "trainer/commands/commands.h"
#include "trainer/launch.h"
#include "trainer/saved_model.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string checkpoint, prompt;
  std::int64_t tokens = 200;
  model::SamplingConfig sampling{.temperature = 0.8, .top_k = 0, .top_p = 0.95, .seed = 0};
};

ExitCode run(const Flags& flags, Invocation& invocation) {
  require_one_process(invocation, "generate");
  at::set_num_threads(threads_per_process(0, 1));
  const auto alone = parallel::make_single();
  const SavedModel saved(flags.checkpoint, *alone);
  const data::Tokenizer& tokenizer = saved.require_tokenizer();
  WN_REQUIRE(!flags.prompt.empty(), "--prompt: is empty; give at least one character to go on from");

  const auto emit = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  model::Generator generator(saved.model, flags.sampling);
  generator.read(tokenizer.encode(flags.prompt));
  emit(flags.prompt);
  for (std::int64_t i = 0; i < flags.tokens; ++i) {
    const std::int32_t token = generator.next();
    // The model's vocabulary may be padded beyond the tokenizer's; an id that stands for no text ends the
    // sample too.
    if (token == tokenizer.end_of_document() || token >= tokenizer.vocab_size()) break;
    emit(tokenizer.bytes_of(token));
  }
  emit("\n");
  return ExitCode::done;
}

}  // namespace

Command add_generate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand("generate", "Continue a text");
  app->add_option("CHECKPOINT", flags->checkpoint, "Checkpoint folder, or run folder (its newest checkpoint)")
      ->required();
  app->add_option("--prompt", flags->prompt, "The text to go on from")->type_name("TEXT")->required();
  app->add_option("--tokens", flags->tokens, "Most tokens to write")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--temperature", flags->sampling.temperature, "0 takes the likeliest token always")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--top-k", flags->sampling.top_k, "Only the k likeliest tokens; 0: all")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app->add_option("--top-p", flags->sampling.top_p,
                  "Only the likeliest tokens that together reach this probability")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--seed", flags->sampling.seed, "The same seed writes the same text")
      ->capture_default_str();
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
