#include "trainer/train.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "common/hash.h"
#include "common/log.h"
#include "common/version.h"
#include "data/sampler.h"
#include "model/cost.h"
#include "model/language_model.h"
#include "parallel/background.h"
#include "parallel/flat_layout.h"
#include "parallel/flat_parameters.h"
#include "parallel/gradient_norm.h"
#include "parallel/gradient_tree.h"
#include "parallel/mesh.h"
#include "trainer/agreement.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/saver.h"
#include "trainer/checkpoint/sharding.h"
#include "trainer/corpus.h"
#include "trainer/evaluation.h"
#include "trainer/launch.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"
#include "trainer/run_clock.h"
#include "trainer/run_folder.h"
#include "trainer/signals.h"
#include "trainer/tensorboard.h"
#include "trainer/warm_start.h"
#include "trainer/watchdog.h"

namespace wuneng::trainer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// What one step reports, the same on every rank.
struct StepResult {
  double loss = 0.0;  // mean over the real tokens of the global batch, nats
  double grad_norm = 0.0;
  double lr = 0.0;
  std::int64_t tokens = 0;  // real tokens of the global batch
  double seconds = 0.0;
};

class Run {
 public:
  Run(const Config& config, const TrainOptions& options, parallel::World& world, Activity& activity);
  ExitCode operator()();

 private:
  void take_folder();
  void resume();
  void open_folder();
  bool resume_from(const std::string& folder);
  void load(const Checkpoint& checkpoint);
  void check_tokenizer(const std::string& stored, const std::string& place) const;
  void begin_from_other_model();
  StepResult step();
  double run_micro_batches(std::int64_t& tokens);
  void report(const StepResult& result);
  void validate();
  void save();
  CheckpointInfo checkpoint_info();
  void finish_save();
  void take(const std::optional<CheckpointSaver::Outcome>& outcome);
  void face_failed_save();
  Request agreed_request();
  ExitCode train_on();

  Config config_;
  TrainOptions options_;
  parallel::World& world_;
  Activity& activity_;
  Clock::time_point begin_ = Clock::now();
  bool main_rank_;
  Logger logger_;
  RunFolder folder_;
  std::optional<RunLock> lock_;

  parallel::ParallelConfig axes_;  // of the mesh, resolved
  std::optional<parallel::Mesh> mesh_;
  std::optional<Corpus> train_, validation_;
  std::optional<data::TrainingSampler> sampler_;
  std::optional<data::EvaluationSampler> validation_sampler_;
  std::optional<model::LanguageModel> model_;
  std::optional<parallel::Background> background_;  // of the data axis
  std::optional<parallel::FlatLayout> layout_;
  std::optional<parallel::FlatParameters> parameters_;
  std::optional<parallel::GradientTree> gradients_;
  std::optional<AdamW> optimizer_;
  std::optional<MetricsFile> metrics_;      // rank 0
  std::optional<TensorBoard> tensorboard_;  // rank 0
  std::optional<ProgressLine> progress_;
  SignalRequests signals_;
  RunClock clock_;
  std::optional<CheckpointSaver> saver_;

  Position position_;
  std::string origin_;                        // where the run goes on from, for the log; may be empty
  std::int64_t validated_ = -1, saved_ = -1;  // steps of the last validation and checkpoint
  double validation_loss_ = 0.0;              // of that validation
  std::string failed_save_;                   // why the last checkpoint could not be written
  double flops_per_token_ = 0.0;
};

Run::Run(const Config& config, const TrainOptions& options, parallel::World& world, Activity& activity)
    : config_(config),
      options_(options),
      world_(world),
      activity_(activity),
      main_rank_(world.rank() == 0),
      logger_(make_logger(world.rank(), world.size())),
      folder_(options.output),
      clock_(config.trainer) {
  at::set_num_threads(threads_per_process(config_.trainer.threads, world_.processes_on_this_node()));
  const TrainerConfig& trainer = config_.trainer;
  const data::DataConfig& data = config_.data;
  agree(world_.communicator(), [&] {
    WN_REQUIRE(!data.train.empty(),
               "data.train: is not set; give the prefix of a tokenised corpus: --set data.train=PREFIX");
    train_.emplace(data.train, config_.model.vocab_size);
    sampler_.emplace(train_->tokens, data.sequence_length, static_cast<std::uint64_t>(config_.seed),
                     data.separate_documents);
    WN_REQUIRE(trainer.checkpoint.keep_best == 0 || !data.validation.empty(),
               "trainer.checkpoint.keep_best = {}: needs data.validation to tell which are best",
               trainer.checkpoint.keep_best);
    if (data.validation.empty()) return;
    validation_.emplace(data.validation, config_.model.vocab_size);
    validation_sampler_.emplace(validation_->tokens, data.sequence_length, data.separate_documents);
  });
  check_same(world_, {{"the program's build", build_identity()},
                      {"the MPI library", world_.library()},
                      {"the configuration", hex(hash_text(to_yaml(config_)))},
                      {"the training corpus " + data.train, hex(train_->tokens.hash())},
                      {"--output", std::filesystem::absolute(options_.output).string()}});
  // Every rank finds the same fault in a mesh; splitting the world needs all of them.
  agree(world_.communicator(), [&] {
    axes_ = parallel::resolved(config_.parallel, world_.size());
    parallel::check_tree(trainer.global_batch / trainer.micro_batch, axes_.data, axes_.reduction);
    model::check_split(config_.model, axes_.tensor);
  });
  mesh_.emplace(axes_, world_.communicator());
  background_.emplace(mesh_->data());
  agree(world_.communicator(), [&] {
    model_.emplace(config_.model, mesh_->tensor(), static_cast<std::uint64_t>(config_.seed));
    const parallel::Parameters& all = model_->parameters();
    layout_.emplace(all, mesh_->data().size(), mesh_->data().rank(), axes_.shard_optimizer);
    parameters_.emplace(all, *layout_, *background_);
    gradients_.emplace(all, *layout_, *background_, trainer.global_batch / trainer.micro_batch,
                       axes_.reduction);
    optimizer_.emplace(config_.optimizer, all, *layout_);
    model_->set_await([this](std::size_t parameters) { parameters_->wait_for(parameters); });
  });
  flops_per_token_ = 3.0 * model::forward_flops(config_.model, data.sequence_length).total();
  take_folder();
  resume();
  open_folder();
}

// Nothing is written into it before all that can be refused is known to be in order.
void Run::take_folder() {
  agree(world_.communicator(), [&] {
    if (!main_rank_) return;
    folder_.check(config_);
    lock_.emplace(folder_.path(), RunLock::Holder::first);
  });
  agree(world_.communicator(), [&] {
    if (!main_rank_) lock_.emplace(folder_.path(), RunLock::Holder::further);
  });
}

// Continues from the newest checkpoint of the folder, if there is one.
void Run::resume() {
  std::string list;  // one folder a line
  agree(world_.communicator(), [&] {
    if (main_rank_)
      for (const auto& folder : checkpoints_in(folder_.checkpoints())) list += folder.string() + "\n";
  });
  std::istringstream folders(world_.communicator().all_gather_text(list)[0]);
  bool resumed = false;
  for (std::string folder; !resumed && std::getline(folders, folder);) resumed = resume_from(folder);
  if (resumed) return;
  if (!origin_.empty())
    throw AgreedError(
        fmt::format("{}none of the checkpoints in {} can be read; restore one from a copy, or "
                    "start anew with another --output",
                    origin_, folder_.checkpoints().string()));
  if (!config_.trainer.init.from.empty()) begin_from_other_model();
}

void Run::open_folder() {
  Json launch = launch_record(options_.command_line, world_, axes_);
  agree(world_.communicator(), [&] {
    if (!main_rank_) return;
    folder_.open(config_, launch);
    log_to_file(logger_, folder_.log());
    metrics_.emplace(folder_.metrics(), position_.step);
    tensorboard_.emplace(folder_.tensorboard(), position_.step);
  });
  logger_->info("{}", banner(config_, launch, *model_, train_->tokens, folder_.path().string()));
  if (!origin_.empty()) logger_->info("{}", origin_);
  if (!lock_->held())
    logger_->warn("{}: this file system has no locks: take care that no other job uses the folder",
                  folder_.path().string());
  progress_.emplace(main_rank_, options_.progress_line);
  const CheckpointConfig& kept = config_.trainer.checkpoint;
  saver_.emplace(folder_.checkpoints(), Retention{kept.keep, kept.keep_every, kept.keep_best},
                 world_.communicator());
}

// False where it is damaged and an older one may take its place.
bool Run::resume_from(const std::string& folder) {
  parallel::Communicator& world = world_.communicator();
  std::string damage;
  std::optional<Checkpoint> checkpoint;
  agree(world, [&] {
    try {
      checkpoint.emplace(folder);
      checkpoint->verify(world.rank(), world.size());
    } catch (const DamagedCheckpoint& error) {
      if (!config_.trainer.checkpoint.fall_back) throw;
      damage = error.what();
    }
  });
  for (const std::string& found : world.all_gather_text(damage)) {
    if (found.empty()) continue;
    origin_ +=
        fmt::format("{}\nfalling back to the checkpoint before it (trainer.checkpoint.fall_back)\n", found);
    return false;
  }
  agree(world, [&] { load(*checkpoint); });
  origin_ += fmt::format("resuming from {} (step {}, {} samples)", folder, position_.step, position_.samples);
  return true;
}

void Run::load(const Checkpoint& checkpoint) {
  const CheckpointInfo& info = checkpoint.info();
  const std::string folder = checkpoint.folder().string();
  const bool imported = info.position.samples == 0;  // any corpus may follow
  WN_REQUIRE(imported || info.data_hash == train_->tokens.hash(),
             "data.train = {}: is not the corpus that {} was trained on (its hash is {}, stored was {}); "
             "give the same tokens again, or "
             "start a new run with another --output",
             config_.data.train, folder, hex(train_->tokens.hash()), hex(info.data_hash));
  if (imported) check_tokenizer(info.tokenizer, folder);
  checkpoint.load(wanted_shard(model_->parameters(), *layout_, *optimizer_), Checkpoint::Hashes::trust);
  position_ = info.position;
  optimizer_->set_updates(position_.step);
  saved_ = position_.step;
}

// The ids of the corpus must mean to the model what they meant before.
void Run::check_tokenizer(const std::string& stored, const std::string& place) const {
  const std::string ours = train_->tokenizer_text();
  WN_REQUIRE(stored.empty() || ours.empty() || stored == ours,
             "data.train = {}: was made by another tokenizer than the one in {}, where its ids mean other "
             "texts; make it with {}/tokenizer.json, or import the model with the --tokenizer of the corpus",
             config_.data.train, place, place);
}

void Run::begin_from_other_model() {
  const InitConfig& init = config_.trainer.init;
  WarmStart warm;
  agree(world_.communicator(), [&] {
    warm = warm_start(init, model_->parameters());
    check_tokenizer(warm.tokenizer, init.from);
  });
  origin_ = "beginning with " + warm.summary;
}

ExitCode Run::operator()() {
  try {
    return train_on();
  } catch (const AgreedError&) {
    saver_->wait();  // an earlier save may still be under way, and all ranks are here
    throw;
  }
}

ExitCode Run::train_on() {
  const TrainerConfig& trainer = config_.trainer;
  if (position_.step >= trainer.steps) {
    logger_->info("nothing to do: {} has already made {} of {} steps; raise trainer.steps to train on",
                  folder_.path().string(), position_.step, trainer.steps);
    return ExitCode::done;
  }
  const auto due = [&](std::int64_t every) { return every > 0 && position_.step % every == 0; };
  while (position_.step < trainer.steps) {
    const auto begin = Clock::now();
    const StepResult result = step();
    agree(world_.communicator(), [&] { report(result); });  // its files are those of rank 0
    if (due(trainer.validate_every)) validate();
    clock_.step_took(seconds_since(begin));
    const Request request = agreed_request();
    if (due(trainer.checkpoint.every) || request != Request::none) save();
    if (request == Request::save_and_stop && position_.step < trainer.steps) {
      finish_save();
      progress_->clear();
      logger_->warn("stopped {} after step {} of {}; run the same command again to go on",
                    clock_.time_is_up(seconds_since(begin_)) ? "before trainer.time_limit" : "by a signal",
                    position_.step, trainer.steps);
      return ExitCode::stopped;
    }
  }
  validate();
  save();
  finish_save();
  progress_->clear();
  logger_->info("done: {} steps, {} tokens; checkpoint {}", position_.step, position_.tokens,
                (folder_.checkpoints() / checkpoint_name(position_.step)).string());
  return ExitCode::done;
}

StepResult Run::step() {
  const auto begin = Clock::now();
  activity_.step = position_.step + 1;
  activity_.phase = "before the step";
  if (options_.before_step) options_.before_step(position_.step + 1);
  StepResult result;
  const double loss_sum = run_micro_batches(result.tokens);
  activity_.phase = "gradient reduction";
  const at::Tensor& gradient = gradients_->reduce();
  parallel::sum_partial_gradients(gradient, model_->parameters(), *layout_, mesh_->tensor());

  activity_.phase = "optimizer";
  const auto tokens = static_cast<double>(std::max<std::int64_t>(1, result.tokens));
  const double squares =
      parallel::sum_of_squares(gradient, model_->parameters(), *layout_, mesh_->data(), mesh_->tensor());
  // The gradients are of the summed loss: dividing by the tokens here makes them those of the mean.
  result.loss = loss_sum / tokens;
  result.grad_norm = std::sqrt(squares) / tokens;
  if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm))
    throw AgreedError(
        fmt::format("step {}: loss {} with gradient norm {}: the run has diverged; earlier checkpoints are "
                    "kept. Try a lower "
                    "optimizer.lr or a longer optimizer.warmup_steps",
                    position_.step + 1, result.loss, result.grad_norm));
  const double clip = config_.optimizer.clip;
  const double shrink = clip > 0.0 && result.grad_norm > clip ? clip / result.grad_norm : 1.0;
  result.lr = learning_rate(config_.optimizer, position_.step + 1, config_.trainer.steps);
  optimizer_->step(parameters_->values(), gradient, result.lr, shrink / tokens);
  parameters_->gather();

  position_.step += 1;
  position_.samples += config_.trainer.global_batch;
  position_.tokens += result.tokens;
  result.seconds = seconds_since(begin);
  return result;
}

// Forward and backward of this rank's share of the global batch. Returns the sum of the losses over all
// ranks, added in the order of the micro-batches, and counts the real tokens.
double Run::run_micro_batches(std::int64_t& tokens) {
  const std::int64_t local = gradients_->local_micro_batches(), size = config_.trainer.micro_batch;
  const std::int64_t first = position_.samples + mesh_->data().rank() * local * size;
  const at::Tensor mine = at::empty({local, 2}, at::kDouble);  // loss, tokens
  auto* row = mine.mutable_data_ptr<double>();
  activity_.phase = "data";
  std::vector<data::Batch> batches;  // all at once: a rank that cannot read its data tells the others
  agree(world_.communicator(), [&] {
    for (std::int64_t m = 0; m < local; ++m) batches.push_back(sampler_->batch(first + m * size, size));
  });
  for (const data::Batch& batch : batches) {
    activity_.phase = "forward";
    const auto [objective, losses] = model_->loss(batch.tokens, batch.targets, batch.document_starts);
    activity_.phase = "backward";
    gradients_->begin_micro_batch();
    objective.backward();
    gradients_->end_micro_batch();
    row[0] = sum_in_order(losses);
    row[1] = static_cast<double>(batch.real_tokens);
    row += 2;
  }
  activity_.phase = "loss reduction";
  const at::Tensor all = at::empty({mesh_->data().size() * local, 2}, at::kDouble);
  mesh_->data().all_gather(mine, all);
  const auto* rows = all.const_data_ptr<double>();
  double sum = 0.0;
  for (std::int64_t m = 0; m < all.size(0); ++m) {
    sum += rows[2 * m];
    tokens += static_cast<std::int64_t>(rows[2 * m + 1]);
  }
  return sum;
}

void Run::report(const StepResult& result) {
  if (!main_rank_) return;
  activity_.phase = "metrics";
  const double tokens_per_second = static_cast<double>(result.tokens) / result.seconds;
  const std::int64_t steps = config_.trainer.steps;
  metrics_->write({{"step", position_.step},
                   {"samples", position_.samples},
                   {"tokens", position_.tokens},
                   {"loss", result.loss},
                   {"grad_norm", result.grad_norm},
                   {"lr", result.lr},
                   {"tokens_per_second", tokens_per_second},
                   {"step_seconds", result.seconds}});
  tensorboard_->scalar("train/loss", result.loss, position_.step);
  tensorboard_->scalar("train/grad_norm", result.grad_norm, position_.step);
  tensorboard_->scalar("train/lr", result.lr, position_.step);
  tensorboard_->scalar("speed/tokens_per_second", tokens_per_second, position_.step);
  const double flops_per_second = flops_per_token_ * tokens_per_second;
  if (position_.step % config_.trainer.log_every == 0 || position_.step == 1 || position_.step == steps)
    logger_->debug("step {}/{}  loss {:.4f}  grad_norm {:.3f}  lr {:.2e}  {:.0f} tokens/s  {:.1f} GFLOP/s",
                   position_.step, steps, result.loss, result.grad_norm, result.lr, tokens_per_second,
                   flops_per_second / 1e9);
  progress_->show({.step = position_.step,
                   .steps = steps,
                   .loss = result.loss,
                   .tokens_per_second = tokens_per_second,
                   .flops_per_second = flops_per_second,
                   .seconds_per_step = result.seconds});
}

void Run::validate() {
  if (!validation_ || validated_ == position_.step) return;
  validated_ = position_.step;
  activity_.phase = "validation";
  const Evaluation result = evaluate(*model_, *validation_sampler_, config_.trainer.micro_batch,
                                     validation_->tokenizer.get(), mesh_->data());
  validation_loss_ = result.loss;
  if (!main_rank_) return;
  metrics_->write(
      {{"step", position_.step}, {"validation_loss", result.loss}, {"validation_tokens", result.tokens}});
  tensorboard_->scalar("validation/loss", result.loss, position_.step);
  const auto bits = result.bits_per_byte();
  if (bits) tensorboard_->scalar("validation/bits_per_byte", *bits, position_.step);
  progress_->clear();
  logger_->info("step {}/{}  validation loss {:.4f}{}", position_.step, config_.trainer.steps, result.loss,
                bits ? fmt::format("  {:.3f} bits per byte", *bits) : "");
}

// Begins a checkpoint of this step.
void Run::save() {
  if (saved_ == position_.step) return;
  finish_save();
  activity_.phase = "checkpoint";
  saver_->begin(checkpoint_info(), written_shard(model_->parameters(), *layout_, *optimizer_,
                                                 {mesh_->tensor().rank(), mesh_->tensor().size()}));
  saved_ = position_.step;
  clock_.save_began(seconds_since(begin_));
}

CheckpointInfo Run::checkpoint_info() {
  const OptimizerConfig& o = config_.optimizer;
  CheckpointInfo info{position_, to_yaml(config_), train_->tokens.hash(), train_->tokenizer_text(), {}, {}};
  if (validated_ == position_.step) info.validation_loss = validation_loss_;
  info.facts =
      Json{{"epoch", position_.samples / sampler_->samples_per_epoch()},
           {"config_hash", hex(identity_hash(config_))},
           {"seed", config_.seed},  // all randomness follows from it and the position
           {"mesh", {{"data", axes_.data}, {"tensor", axes_.tensor}}},
           {"shard_optimizer", axes_.shard_optimizer},
           {"learning_rate", learning_rate(o, position_.step, config_.trainer.steps)},
           {"adamw",
            {{"beta1", o.beta1}, {"beta2", o.beta2}, {"eps", o.eps}, {"weight_decay", o.weight_decay}}}}
          .dump();
  return info;
}

// Until the save in flight has ended. All ranks call it.
void Run::finish_save() {
  activity_.phase = "checkpoint";
  take(saver_->wait());
  face_failed_save();
}

void Run::take(const std::optional<CheckpointSaver::Outcome>& outcome) {
  if (!outcome) return;
  failed_save_ = outcome->error;
  if (!failed_save_.empty()) return;
  clock_.save_took(outcome->seconds);
  logger_->debug("saved {} in {:.1f} s", outcome->folder.string(), outcome->seconds);
}

// All ranks know of it, since a save ends in the same way on all of them.
void Run::face_failed_save() {
  if (failed_save_.empty()) return;
  const std::string text =
      fmt::format("the checkpoint of step {} could not be written: {}; earlier ones are valid", saved_,
                  std::exchange(failed_save_, {}));
  saved_ = -1;
  if (config_.trainer.checkpoint.on_failure == CheckpointConfig::OnFailure::stop) throw AgreedError(text);
  progress_->clear();
  logger_->error("{}; training goes on (trainer.checkpoint.on_failure)", text);
}

// The strongest request that any rank has received. Failed saves are faced here, at the same step on all
// ranks.
Request Run::agreed_request() {
  activity_.phase = "signals";
  take(saver_->poll());
  Request request = signals_.take();
  if (main_rank_) request = std::max(request, clock_.request(seconds_since(begin_)));
  const at::Tensor mine = at::empty({2}, at::kLong), all = at::empty({world_.size(), 2}, at::kLong);
  mine[0] = static_cast<std::int64_t>(request);
  mine[1] = failed_save_.empty() ? 0 : 1;
  world_.communicator().all_gather(mine, all);
  const at::Tensor most = std::get<0>(all.max(0));
  if (most[1].item<std::int64_t>() > 0) {
    take(saver_->wait());
    face_failed_save();
  }
  return static_cast<Request>(most[0].item<std::int64_t>());
}

}  // namespace

ExitCode train(const Config& config, const TrainOptions& options, parallel::World& world,
               Activity& activity) {
  const Watchdog watchdog(config.trainer.stuck_after, config.trainer.grace, world, activity);
  return Run(config, options, world, activity)();
}

}  // namespace wuneng::trainer
