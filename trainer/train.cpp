#include "trainer/train.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/hash.h"
#include "common/log.h"
#include "common/version.h"
#include "model/cost.h"
#include "model/language_model.h"
#include "parallel/background.h"
#include "parallel/flat_layout.h"
#include "parallel/flat_parameters.h"
#include "parallel/gradient_norm.h"
#include "parallel/gradient_tree.h"
#include "parallel/mesh.h"
#include "trainer/agreement.h"
#include "trainer/evaluation.h"
#include "trainer/launch.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"
#include "trainer/run_checkpoints.h"
#include "trainer/run_data.h"
#include "trainer/run_folder.h"
#include "trainer/signals.h"
#include "trainer/tensorboard.h"
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
  void open_folder();
  StepResult step();
  double run_micro_batches(std::int64_t& tokens);
  void report(const StepResult& result);
  void validate();
  void save();
  void save_last();
  std::optional<double> loss_of_this_step() const;
  Request agreed_request();
  ExitCode train_on();

  Config config_;
  TrainOptions options_;
  parallel::World& world_;
  Activity& activity_;
  bool main_rank_;
  Logger logger_;
  RunFolder folder_;
  std::optional<RunLock> lock_;

  parallel::Device device_;
  parallel::ParallelConfig axes_;  // of the mesh, resolved
  std::optional<parallel::Mesh> mesh_;
  std::unique_ptr<const RunData> data_;
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
  std::optional<RunCheckpoints> checkpoints_;

  Position position_;
  std::int64_t validated_ = -1;   // step of the last validation
  double validation_loss_ = 0.0;  // that it found
  double flops_per_token_ = 0.0;
};

Run::Run(const Config& config, const TrainOptions& options, parallel::World& world, Activity& activity)
    : config_(config),
      options_(options),
      world_(world),
      activity_(activity),
      main_rank_(world.rank() == 0),
      logger_(make_logger(world.rank(), world.size())),
      folder_(options.output) {
  at::set_num_threads(threads_per_process(config_.trainer.threads, world_.on_this_host().size));
  const TrainerConfig& trainer = config_.trainer;
  agree(world_.communicator(), [&] {
    device_ = parallel::choose_device(config_.parallel, world_.on_this_host());
    data_ = make_run_data(config_);
    WN_REQUIRE(trainer.checkpoint.keep_best == 0 || data_->has_validation(),
               "trainer.checkpoint.keep_best = {}: needs data.validation to tell which are best",
               trainer.checkpoint.keep_best);
  });
  check_same(world_, {{"the program's build", build_identity()},
                      {"the MPI library", world_.library()},
                      {"the device", device_.name},
                      {"the GPU libraries", device_.libraries},
                      {"the configuration", hex(hash_text(to_yaml(config_)))},
                      {"the training data, " + data_->setting(), hex(data_->hash())},
                      {"--output", std::filesystem::absolute(options_.output).string()}});
  // Every rank finds the same fault in a mesh; splitting the world needs all of them.
  agree(world_.communicator(), [&] {
    axes_ = parallel::resolved(config_.parallel, world_.size());
    parallel::check_tree(trainer.global_batch / trainer.micro_batch, axes_.data, axes_.reduction);
    model::check_split(config_.model, axes_.tensor);
    check_sequence(config_, axes_.tensor);
  });
  mesh_.emplace(axes_, world_.communicator(), device_, std::chrono::seconds(trainer.stuck_after.collective));
  background_.emplace(mesh_->data());
  agree(world_.communicator(), [&] {
    model_.emplace(config_.model, mesh_->tensor(), static_cast<std::uint64_t>(config_.seed),
                   parallel::Building{.sequence = axes_.sequence, .device = device_.where});
    const parallel::Parameters& all = model_->parameters();
    layout_.emplace(all, mesh_->data().size(), mesh_->data().rank(), axes_.shard_optimizer);
    parameters_.emplace(all, *layout_, *background_);
    gradients_.emplace(all, *layout_, *background_, trainer.global_batch / trainer.micro_batch,
                       axes_.reduction);
    optimizer_.emplace(config_.optimizer, all, *layout_);
    model_->set_await([this](std::size_t parameters) { parameters_->wait_for(parameters); });
  });
  flops_per_token_ = 3.0 * model::forward_flops(config_.model, config_.data.sequence_length).total();
  take_folder();
  checkpoints_.emplace(
      config_, axes_, *data_, folder_.checkpoints(), world_,
      TrainedState{
          &model_->parameters(), &*layout_, &*optimizer_, {mesh_->tensor().rank(), mesh_->tensor().size()}});
  position_ = checkpoints_->resume();
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

void Run::open_folder() {
  Json launch = launch_record(options_.command_line, world_, axes_, device_.describe());
  agree(world_.communicator(), [&] {
    if (!main_rank_) return;
    folder_.open(config_, launch);
    log_to_file(logger_, folder_.log());
    metrics_.emplace(folder_.metrics(), position_.step);
    tensorboard_.emplace(folder_.tensorboard(), position_.step);
  });
  logger_->info("{}", banner(config_, launch, *model_, data_->description(), folder_.path().string()));
  if (const std::string warning = tensor_ranks_apart(launch); !warning.empty()) logger_->warn("{}", warning);
  if (!checkpoints_->origin().empty()) logger_->info("{}", checkpoints_->origin());
  if (!lock_->held())
    logger_->warn("{}: this file system has no locks: take care that no other job uses the folder",
                  folder_.path().string());
  progress_.emplace(main_rank_, options_.progress_line);
  checkpoints_->open(logger_, [this] { progress_->clear(); });
}

ExitCode Run::operator()() {
  try {
    return train_on();
  } catch (const AgreedError&) {
    checkpoints_->abandon();
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
    checkpoints_->clock().step_took(seconds_since(begin));
    const Request request = agreed_request();
    if (request == Request::save_and_stop && position_.step < trainer.steps) {
      save_last();
      progress_->clear();
      logger_->warn("stopped {} after step {} of {}; run the same command again to go on",
                    checkpoints_->time_is_up() ? "before trainer.time_limit" : "by a signal", position_.step,
                    trainer.steps);
      return ExitCode::stopped;
    }
    if (checkpoints_->due(position_.step) || request != Request::none) save();
  }
  validate();
  save_last();
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
  parameters_->updated();

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
    for (std::int64_t m = 0; m < local; ++m)
      batches.push_back(data_->training().batch(first + m * size, size));
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
  const auto processed = config_.trainer.global_batch * config_.data.sequence_length;  // real or not
  const double flops_per_second = flops_per_token_ * static_cast<double>(processed) / result.seconds;
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
  if (!data_->has_validation() || validated_ == position_.step) return;
  validated_ = position_.step;
  activity_.phase = "validation";
  const Evaluation result = data_->validate(*model_, mesh_->data());
  validation_loss_ = result.loss;
  if (!main_rank_) return;
  Json line = {
      {"step", position_.step}, {"validation_loss", result.loss}, {"validation_tokens", result.tokens}};
  line.update(accuracy_json(result));
  metrics_->write(line);
  tensorboard_->scalar("validation/loss", result.loss, position_.step);
  const auto bits = result.bits_per_byte();
  if (bits) tensorboard_->scalar("validation/bits_per_byte", *bits, position_.step);
  for (const Accuracy& accuracy : result.accuracies)
    if (std::isfinite(accuracy.value))
      tensorboard_->scalar(fmt::format("validation/{}/{}", accuracy.metric, accuracy.test), accuracy.value,
                           position_.step);
  progress_->clear();
  logger_->info("step {}/{}  validation loss {:.4f}{}{}", position_.step, config_.trainer.steps, result.loss,
                bits ? fmt::format("  {:.3f} bits per byte", *bits) : "", accuracy_text(result));
}

void Run::save() {
  activity_.phase = "checkpoint";
  checkpoints_->save(position_, loss_of_this_step());
}

void Run::save_last() {
  activity_.phase = "checkpoint";
  checkpoints_->save_last(position_, loss_of_this_step());
}

std::optional<double> Run::loss_of_this_step() const {
  return validated_ == position_.step ? std::optional(validation_loss_) : std::nullopt;
}

Request Run::agreed_request() {
  activity_.phase = "signals";
  return checkpoints_->agree_on(signals_.take());
}

}  // namespace

ExitCode train(const Config& config, const TrainOptions& options, parallel::World& world,
               Activity& activity) {
  const Watchdog watchdog(config.trainer.stuck_after, config.trainer.grace, world, activity);
  return Run(config, options, world, activity)();
}

}  // namespace wuneng::trainer
