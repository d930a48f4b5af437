#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/file.h"
#include "data/sampler.h"
#include "parallel/mesh.h"
#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/corpus.h"
#include "trainer/evaluation.h"
#include "trainer/launch.h"
#include "trainer/run_data.h"
#include "trainer/safetensors.h"
#include "trainer/saved_model.h"
#include "trainer/watchdog.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string checkpoint, corpus, tokens, logits;
  bool json = false;
  std::int64_t tensor = 1;
  parallel::DeviceKind device = parallel::DeviceKind::automatic;
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
  const at::Tensor logits = saved.model.logits(saved.model.hidden(tokens)).to(at::kCPU);
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
    line.update(accuracy_json(result));
    std::printf("%s\n", line.dump().c_str());
    return;
  }
  fmt::print("loss           {:.6f} nats per token\nperplexity     {:.4f}\n", result.loss,
             result.perplexity());
  if (result.accuracies.empty())
    fmt::print("bits per byte  {}\n", bits ? fmt::format("{:.4f} over {} bytes", *bits, result.bytes)
                                           : "unknown (no PREFIX.tokenizer.json beside the corpus)");
  fmt::print("tokens         {}\n", result.tokens);
  for (const Accuracy& accuracy : result.accuracies)
    fmt::print("{:<20} {:>10}  {:.4f}\n", accuracy.metric, accuracy.test, accuracy.value);
}

Evaluation evaluate_corpus(const SavedModel& saved, const std::string& prefix, const parallel::Mesh& mesh,
                           parallel::World& world) {
  std::optional<Corpus> corpus;
  std::optional<data::EvaluationSampler> sampler;
  agree(world.communicator(), [&] {
    corpus.emplace(prefix, saved.config.model.vocab_size);
    sampler.emplace(corpus->tokens, saved.config.data.sequence_length, saved.config.data.separate_documents);
  });
  const data::Tokenizer* tokenizer = corpus->tokenizer ? corpus->tokenizer.get() : saved.tokenizer.get();
  return evaluate(saved.model, *sampler, saved.config.trainer.micro_batch, tokenizer, mesh.data());
}

ExitCode run(const Flags& flags, Invocation& invocation) {
  parallel::World& world = invocation.world;
  at::set_num_threads(threads_per_process(0, world.on_this_host().size));
  parallel::ParallelConfig axes;
  axes.tensor = flags.tensor;
  axes.device = flags.device;
  axes.share_gpus = true;
  parallel::Device device;
  agree(world.communicator(), [&] {
    axes = parallel::resolved(axes, world.size());
    device = parallel::choose_device(axes, world.on_this_host());
  });
  const parallel::Mesh mesh(axes, world.communicator(), device);
  std::optional<SavedModel> saved;
  agree(world.communicator(), [&] {
    WN_REQUIRE(flags.tokens.empty() == flags.logits.empty(),
               "--tokens FILE and --logits OUT.safetensors: one needs the other");
    saved.emplace(flags.checkpoint, mesh.tensor(), device.where);
    WN_REQUIRE(!flags.corpus.empty() || !flags.tokens.empty() ||
                   saved->config.data.task.name != data::TaskName::none,
               "give a corpus (--data PREFIX), or --tokens FILE with --logits OUT; only a model that was "
               "trained on a task (data.task.name) has a test of its own");
  });
  invocation.activity.phase = "validation";  // the limit that all of the rest is under
  const Watchdog watchdog(saved->config.trainer.stuck_after, 0, world, invocation.activity);
  if (!flags.tokens.empty()) write_logits(*saved, flags, world);
  if (flags.corpus.empty() && !flags.tokens.empty()) return ExitCode::done;
  const Evaluation result = flags.corpus.empty()
                                ? make_run_data(saved->config)->validate(saved->model, mesh.data())
                                : evaluate_corpus(*saved, flags.corpus, mesh, world);
  if (world.rank() == 0) print(result, flags.json);
  return ExitCode::done;
}

}  // namespace

Command add_evaluate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app = program.add_subcommand(
      "evaluate", "Loss, perplexity and bits per byte of a model on a corpus, or accuracy on its task");
  app->add_option("CHECKPOINT", flags->checkpoint, "Checkpoint folder, or run folder (its newest checkpoint)")
      ->required();
  app->add_option(
         "--data", flags->corpus,
         "Tokenised corpus, PREFIX.bin and PREFIX.idx; left out: the task that the model was trained on")
      ->type_name("PREFIX");
  app->add_flag("--json", flags->json, "Print one JSON object");
  app->add_option("--tensor", flags->tensor,
                  "Processes that share the model's heads; the others share the corpus")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  add_device(*app, flags->device);
  app->add_option("--tokens", flags->tokens, "Token ids of one sequence, as text, for --logits")
      ->type_name("FILE");
  app->add_option("--logits", flags->logits, "Write the fp32 logits [T, V] of --tokens")
      ->type_name("OUT.safetensors");
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
