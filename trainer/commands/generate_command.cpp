#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "model/generation.h"
#include "parallel/mesh.h"
#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/launch.h"
#include "trainer/saved_model.h"
#include "trainer/streamed_text.h"

namespace wuneng::trainer {
namespace {

struct Flags {
  std::string checkpoint;
  std::vector<std::string> prompts, stops;
  std::int64_t tokens = 200;
  parallel::DeviceKind device = parallel::DeviceKind::automatic;
  model::SamplingConfig sampling{.temperature = 0.8, .top_k = 0, .top_p = 0.95, .seed = 0};
};

// On the rank that writes; every rank goes the same way.
void write(bool writes, std::string_view text) {
  if (!writes) return;
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// A single text is written while it is generated, several one after the other when all are done.
class Output {
 public:
  Output(const Flags& flags, bool writes)
      : texts_(flags.prompts), single_(flags.prompts.size() == 1), writes_(writes) {
    for (std::size_t i = 0; i < texts_.size(); ++i)
      streams_.emplace_back(flags.stops, [this, i](std::string_view bytes) { emit(i, bytes); });
    running_.assign(texts_.size(), true);
    if (single_) write(writes_, texts_[0]);
  }

  bool running() const { return std::ranges::find(running_, true) != running_.end(); }

  void add(std::size_t i, std::int32_t token, const data::Tokenizer& tokenizer) {
    if (!running_[i]) return;
    // The model's vocabulary may be padded beyond the tokenizer's; an id that stands for no text ends the
    // text too.
    const bool end = token == tokenizer.end_of_document() || token >= tokenizer.vocab_size();
    if (end) streams_[i].finish();
    running_[i] = !end && !streams_[i].add(tokenizer.bytes_of(token));
  }

  void finish() {
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      if (running_[i]) streams_[i].finish();
      write(writes_, single_ ? "\n" : fmt::format("==> {} <==\n{}\n", i + 1, texts_[i]));
    }
  }

 private:
  void emit(std::size_t i, std::string_view bytes) {
    texts_[i] += bytes;
    if (single_) write(writes_, bytes);
  }

  std::vector<std::string> texts_;
  bool single_, writes_;
  std::vector<StreamedText> streams_;
  std::vector<bool> running_;
};

ExitCode run(const Flags& flags, Invocation& invocation) {
  parallel::World& world = invocation.world;  // its processes share the model's heads
  at::set_num_threads(threads_per_process(0, world.on_this_host().size));
  const parallel::ParallelConfig axes{
      .data = 1, .tensor = world.size(), .device = flags.device, .share_gpus = true};
  parallel::Device device;
  agree(world.communicator(), [&] { device = parallel::choose_device(axes, world.on_this_host()); });
  const parallel::Mesh mesh(axes, world.communicator(), device);
  std::optional<SavedModel> loaded;
  agree(world.communicator(), [&] { loaded.emplace(flags.checkpoint, mesh.tensor(), device.where); });
  const SavedModel& saved = *loaded;
  const data::Tokenizer& tokenizer = saved.require_tokenizer();
  std::vector<std::vector<std::int32_t>> prompts;
  for (const std::string& prompt : flags.prompts) {
    WN_REQUIRE(!prompt.empty(), "--prompt: is empty; give at least one character to go on from");
    prompts.push_back(tokenizer.encode(prompt));
  }
  for (const std::string& stop : flags.stops)
    WN_REQUIRE(!stop.empty(), "--stop: is empty; give the text to stop before");

  model::Generator generator(saved.model, flags.sampling, std::move(prompts));
  Output output(flags, world.rank() == 0);
  for (std::int64_t i = 0; i < flags.tokens && output.running(); ++i) {
    const std::vector<std::int32_t> tokens = generator.next();
    for (std::size_t text = 0; text < tokens.size(); ++text) output.add(text, tokens[text], tokenizer);
  }
  output.finish();
  return ExitCode::done;
}

}  // namespace

Command add_generate(CLI::App& program) {
  auto flags = std::make_shared<Flags>();
  CLI::App* app =
      program.add_subcommand("generate", "Continue a text; the processes of a job share the model's heads");
  app->add_option("CHECKPOINT", flags->checkpoint, "Checkpoint folder, or run folder (its newest checkpoint)")
      ->required();
  app->add_option("--prompt", flags->prompts,
                  "The text to go on from; may be given several times, to go on from several at once")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all()
      ->required();
  app->add_option("--stop", flags->stops, "End a text before this one appears; may be given several times")
      ->type_name("TEXT")
      ->expected(1)
      ->take_all();
  add_device(*app, flags->device);
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
  app->add_option("--repetition-penalty", flags->sampling.repetition_penalty,
                  "Divides the logits of tokens that the text has already; 1: off")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app->add_option("--seed", flags->sampling.seed, "The same seed writes the same text")
      ->capture_default_str();
  return {app, [flags](Invocation& invocation) { return run(*flags, invocation); }};
}

}  // namespace wuneng::trainer
