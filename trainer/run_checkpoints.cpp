#include "trainer/run_checkpoints.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/max.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>

#include "common/hash.h"
#include "trainer/agreement.h"
#include "trainer/warm_start.h"

namespace wuneng::trainer {

RunCheckpoints::RunCheckpoints(const Config& config, const parallel::ParallelConfig& mesh,
                               const RunData& data, const std::filesystem::path& folder,
                               parallel::World& world, TrainedState state)
    : config_(config),
      mesh_(mesh),
      data_(data),
      folder_(folder),
      world_(world),
      state_(state),
      tokenizer_(data.tokenizer_text()),
      clock_(config.trainer) {}

double RunCheckpoints::now() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

Position RunCheckpoints::resume() {
  std::string list;  // one folder a line
  agree(world_.communicator(), [&] {
    if (world_.rank() == 0)
      for (const auto& folder : checkpoints_in(folder_)) list += folder.string() + "\n";
  });
  std::istringstream folders(world_.communicator().all_gather_text(list)[0]);
  for (std::string folder; std::getline(folders, folder);)
    if (resume_from(folder)) return position_;
  if (!origin_.empty())
    throw AgreedError(
        fmt::format("{}none of the checkpoints in {} can be read; restore one from a copy, or "
                    "start anew with another --output",
                    origin_, folder_.string()));
  if (!config_.trainer.init.from.empty()) begin_from_other_model();
  return position_;
}

// False where it is damaged and an older one may take its place.
bool RunCheckpoints::resume_from(const std::string& folder) {
  parallel::Communicator& world = world_.communicator();
  std::string damage;
  std::optional<Checkpoint> checkpoint;
  const bool alone = world.size() == 1;  // then every byte is read but once
  agree(world, [&] {
    try {
      checkpoint.emplace(folder);
      if (alone)
        load(*checkpoint, Checkpoint::Hashes::check);
      else
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
  if (!alone) agree(world, [&] { load(*checkpoint, Checkpoint::Hashes::trust); });
  origin_ += fmt::format("resuming from {} (step {}, {} samples)", folder, position_.step, position_.samples);
  return true;
}

void RunCheckpoints::load(const Checkpoint& checkpoint, Checkpoint::Hashes hashes) {
  const CheckpointInfo& info = checkpoint.info();
  const std::string folder = checkpoint.folder().string();
  const bool imported = info.position.samples == 0;  // any data may follow
  WN_REQUIRE(imported || info.data_hash == data_.hash(),
             "{}: is not the data that {} was trained on (its hash is {}, stored was {}); give the same data "
             "again, or start a new run with another --output",
             data_.setting(), folder, hex(data_.hash()), hex(info.data_hash));
  take_tokenizer(info.tokenizer, folder);
  checkpoint.load(wanted_shard(*state_.parameters, *state_.layout, *state_.optimizer), hashes);
  position_ = info.position;
  state_.optimizer->set_updates(position_.step);
  saved_ = position_.step;
}

void RunCheckpoints::begin_from_other_model() {
  const InitConfig& init = config_.trainer.init;
  WarmStart warm;
  agree(world_.communicator(), [&] {
    warm = warm_start(init, *state_.parameters);
    take_tokenizer(warm.tokenizer, init.from);
  });
  origin_ = "beginning with " + warm.summary;
}

// The ids of the data must mean to the model what they meant before.
void RunCheckpoints::take_tokenizer(const std::string& stored, const std::string& place) {
  const std::string ours = data_.tokenizer_text();
  tokenizer_ = ours.empty() ? stored : ours;
  WN_REQUIRE(stored.empty() || ours.empty() || stored == ours,
             "{}: was made by another tokenizer than the one in {}, where its ids mean other texts; make it "
             "with {}/tokenizer.json, or import the model with the --tokenizer of the corpus",
             data_.setting(), place, place);
}

void RunCheckpoints::open(Logger logger, std::function<void()> before_error) {
  logger_ = std::move(logger);
  before_error_ = std::move(before_error);
  const CheckpointConfig& kept = config_.trainer.checkpoint;
  saver_.emplace(folder_, Retention{kept.keep, kept.keep_every, kept.keep_best}, world_.communicator());
  if (kept.every > 0 || kept.every_minutes > 0) saver_->prepare(shard());
}

bool RunCheckpoints::due(std::int64_t step) const {
  const std::int64_t every = config_.trainer.checkpoint.every;
  return every > 0 && step % every == 0;
}

void RunCheckpoints::save(const Position& position, std::optional<double> validation_loss) {
  if (!needed(position)) return;
  saver_->begin(info(position, validation_loss), shard());
  saved_ = position.step;
  clock_.save_began(now());
}

void RunCheckpoints::save_last(const Position& position, std::optional<double> validation_loss) {
  if (needed(position)) saver_->begin_last(info(position, validation_loss), shard());
  saved_ = position.step;
  finish(CheckpointConfig::OnFailure::stop);
}

// Whether the step has no checkpoint, and none is on its way. Another step's save is over then.
bool RunCheckpoints::needed(const Position& position) {
  if (saved_ == position.step) return false;
  finish(config_.trainer.checkpoint.on_failure);
  return true;
}

void RunCheckpoints::finish(CheckpointConfig::OnFailure then) {
  take(saver_->wait());
  face_failure(then);
}

Shard RunCheckpoints::shard() const {
  return written_shard(*state_.parameters, *state_.layout, *state_.optimizer, state_.tensor);
}

CheckpointInfo RunCheckpoints::info(const Position& position, std::optional<double> validation_loss) const {
  const OptimizerConfig& o = config_.optimizer;
  const std::int64_t per_epoch = data_.samples_per_epoch();
  const Json facts{
      {"epoch", per_epoch > 0 ? Json(position.samples / per_epoch) : Json()},
      {"config_hash", hex(identity_hash(config_))},
      {"seed", config_.seed},  // all randomness follows from it and the position
      {"mesh", {{"data", mesh_.data}, {"tensor", mesh_.tensor}}},
      {"shard_optimizer", mesh_.shard_optimizer},
      {"learning_rate", learning_rate(o, position.step, config_.trainer.steps)},
      {"adamw", {{"beta1", o.beta1}, {"beta2", o.beta2}, {"eps", o.eps}, {"weight_decay", o.weight_decay}}}};
  return {position, to_yaml(config_), data_.hash(), tokenizer_, validation_loss, facts.dump()};
}

void RunCheckpoints::abandon() {
  if (saver_) saver_->wait();
}

void RunCheckpoints::take(const std::optional<CheckpointSaver::Outcome>& outcome) {
  if (!outcome) return;
  failure_ = outcome->error;
  if (!failure_.empty()) return;
  clock_.save_took(outcome->seconds);
  logger_->debug("saved {} in {:.1f} s", outcome->folder.string(), outcome->seconds);
}

// All ranks know of it, since a save ends in the same way on all of them.
void RunCheckpoints::face_failure(CheckpointConfig::OnFailure then) {
  if (failure_.empty()) return;
  const std::string text =
      fmt::format("the checkpoint of step {} could not be written: {}; earlier ones are valid", saved_,
                  std::exchange(failure_, {}));
  saved_ = -1;
  if (then == CheckpointConfig::OnFailure::stop) throw AgreedError(text);
  before_error_();
  logger_->error("{}; training goes on (trainer.checkpoint.on_failure)", text);
}

// Failed saves are faced here, at the same step on all ranks.
Request RunCheckpoints::agree_on(Request mine) {
  take(saver_->poll());
  if (world_.rank() == 0) mine = std::max(mine, clock_.request(now()));
  const at::Tensor ours = at::empty({2}, at::kLong), all = at::empty({world_.size(), 2}, at::kLong);
  auto* words = ours.mutable_data_ptr<std::int64_t>();
  words[0] = static_cast<std::int64_t>(mine);
  words[1] = failure_.empty() ? 0 : 1;
  world_.communicator().all_gather(ours, all);
  const at::Tensor most = std::get<0>(all.max(0));
  if (most[1].item<std::int64_t>() > 0) finish(config_.trainer.checkpoint.on_failure);
  return static_cast<Request>(most[0].item<std::int64_t>());
}

}  // namespace wuneng::trainer
