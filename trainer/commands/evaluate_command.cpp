#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file.h"
#include "parallel/mesh.h"
#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/corpus.h"
#include "trainer/evaluation.h"
#include "trainer/launch.h"
#include "trainer/safetensors.h"
#include "trainer/saved_model.h"
#include "trainer/watchdog.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string checkpoint, corpus, tokens, logits;
  bool json = false;
  std::int64_t tensor = 1;
};

// Token ids as text, separated by white space.
at::Tensor read_ids(const std::string& file, std::int64_t vocab_size) {
  const std::string text = read_text(file);
  std::vector<std::int64_t> ids;
  for (const char *next = text.data(), *end = next + text.size(); next != end;) {
    if (std::isspace(static_cast<unsigned char>(*next))) {
      ++next;
      continue;
    }
    std::int64_t id = -1;
    const auto [after, error] = std::from_chars(next, end, id);
    WN_REQUIRE(error == std::errc(),
               "{}: id {}: '{}' is not a number; give token ids separated by white space", file, ids.size(),
               std::string(next, std::min(end, next + 12)));
    WN_REQUIRE(id >= 0 && id < vocab_size, "{}: id {}: {} is outside the vocabulary 0 .. {}", file,
               ids.size(), id, vocab_size - 1);
    ids.push_back(id);
    next = after;
  }
  WN_REQUIRE(!ids.empty(), "{}: holds no token ids", file);
  const at::Tensor tokens = at::empty({1, static_cast<std::int64_t>(ids.size())}, at::kLong);
  std::copy(ids.begin(), ids.end(), tokens.mutable_data_ptr<std::int64_t>());
  return tokens;
}

void write_logits(const SavedModel& saved, const Flags& flags, parallel::World& world) {
  const at::NoGradGuard no_grad;
  at::Tensor tokens;
  agree(world.communicator(), [&] { tokens = read_ids(flags.tokens, saved.config.model.vocab_size); });
  const at::Tensor logits = saved.model.logits(saved.model.hidden(tokens));
  agree(world.communicator(), [&] {
    if (world.rank() == 0) write_safetensors(flags.logits, {{"logits", logits.squeeze(0)}});
  });
}

void print(const Evaluation& result, bool json) {
  const auto bits = result.bits_per_byte();
  if (json) {
    Json line{{"loss", result.loss},
              {"perplexity", result.perplexity()},
              {"bits_per_byte", nullptr},
              {"tokens", result.tokens},
              {"bytes", result.bytes}};
    if (bits) line["bits_per_byte"] = *bits;
    std::printf("%s\n", line.dump().c_str());
    return;
  }
  fmt::print(
      "loss           {:.6f} nats per token\nperplexity     {:.4f}\nbits per byte  {}\ntokens         {}\n",
      result.loss, result.perplexity(),
      bits ? fmt::format("{:.4f} over {} bytes", *bits, result.bytes)
           : "unknown (no PREFIX.tokenizer.json beside the corpus)",
      result.tokens);
}

ExitCode run(const Flags& flags, Invocation& invocation) {
  parallel::World& world = invocation.world;
  at::set_num_threads(threads_per_process(0, world.processes_on_this_node()));
  parallel::ParallelConfig axes;
  axes.tensor = flags.tensor;
  agree(world.communicator(), [&] { axes = parallel::resolved(axes, world.size()); });
  const parallel::Mesh mesh(axes, world.communicator());
  std::optional<SavedModel> saved;
  std::optional<Corpus> corpus;
  std::optional<data::EvaluationSampler> sampler;
  agree(world.communicator(), [&] {
    WN_REQUIRE(!flags.corpus.empty() || !flags.tokens.empty(),
               "give a corpus (--data PREFIX), or --tokens FILE with --logits OUT");
    WN_REQUIRE(flags.tokens.empty() == flags.logits.empty(),
               "--tokens FILE and --logits OUT.safetensors: one needs the other");
    saved.emplace(flags.checkpoint, mesh.tensor());
  });
  invocation.activity.phase = "validation";  // the limit that all of the rest is under
  const Watchdog watchdog(saved->config.trainer.stuck_after, world, invocation.activity);
  agree(world.communicator(), [&] {
    if (flags.corpus.empty()) return;
    corpus.emplace(flags.corpus, saved->config.model.vocab_size);
    sampler.emplace(corpus->tokens, saved->config.data.sequence_length,
                    saved->config.data.separate_documents);
  });
  if (!flags.tokens.empty()) write_logits(*saved, flags, world);
  if (!corpus) return ExitCode::done;
  const data::Tokenizer* tokenizer = corpus->tokenizer ? corpus->tokenizer.get() : saved->tokenizer.get();
  const Evaluation result =
      evaluate(saved->model, *sampler, saved->config.trainer.micro_batch, tokenizer, mesh.data());
  if (world.rank() == 0) print(result, flags.json);
  return ExitCode::done;
}

}  // namespace

Command add_evaluate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app =
      program.add_subcommand("evaluate", "Loss, perplexity and bits per byte of a model on a corpus");
  app->add_option("CHECKPOINT", flags->checkpoint, "Checkpoint folder, or run folder (its newest checkpoint)")
      ->required();
  app->add_option("--data", flags->corpus, "Tokenised corpus, PREFIX.bin and PREFIX.idx")
      ->type_name("PREFIX");
  app->add_flag("--json", flags->json, "Print one JSON object");
  app->add_option("--tensor", flags->tensor,
                  "Processes that share the model's heads; the others share the corpus")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--tokens", flags->tokens, "Token ids of one sequence, as text, for --logits")
      ->type_name("FILE");
  app->add_option("--logits", flags->logits, "Write the fp32 logits [T, V] of --tokens")
      ->type_name("OUT.safetensors");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
