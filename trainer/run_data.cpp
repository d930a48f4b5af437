#include "trainer/run_data.h"

#include "common/check.h"
#include "common/hash.h"
#include "data/sampler.h"
#include "data/tasks/task_set.h"
#include "trainer/corpus.h"
#include "trainer/launch.h"

namespace wuneng::trainer {
namespace {

const std::string& require_corpus(const data::DataConfig& data) {
  WN_REQUIRE(!data.train.empty(),
             "data.train: is not set; give the prefix of a tokenised corpus: --set data.train=PREFIX");
  return data.train;
}

class CorpusData final : public RunData {
 public:
  explicit CorpusData(const Config& config)
      : prefix_(require_corpus(config.data)),
        micro_batch_(config.trainer.micro_batch),
        train_(prefix_, config.model.vocab_size),
        training_(train_.tokens, config.data.sequence_length, static_cast<std::uint64_t>(config.seed),
                  config.data.separate_documents) {
    if (config.data.validation.empty()) return;
    validation_.emplace(config.data.validation, config.model.vocab_size);
    validation_samples_.emplace(validation_->tokens, config.data.sequence_length,
                                config.data.separate_documents);
  }

  const data::Samples& training() const override { return training_; }
  std::int64_t samples_per_epoch() const override { return training_.samples_per_epoch(); }
  std::uint64_t hash() const override { return train_.tokens.hash(); }
  std::string setting() const override { return "data.train = " + prefix_; }
  std::string description() const override {
    return fmt::format("{}: {} tokens in {} documents, hash {}", prefix_,
                       short_count(static_cast<double>(train_.tokens.tokens())), train_.tokens.documents(),
                       hex(hash()));
  }
  std::string tokenizer_text() const override { return train_.tokenizer_text(); }
  bool has_validation() const override { return validation_.has_value(); }
  Evaluation validate(const model::LanguageModel& model, parallel::Communicator& data_group) const override {
    return evaluate(model, *validation_samples_, micro_batch_, validation_->tokenizer.get(), data_group);
  }

 private:
  std::string prefix_;
  std::int64_t micro_batch_;
  Corpus train_;
  data::TrainingSampler training_;
  std::optional<Corpus> validation_;
  std::optional<data::EvaluationSampler> validation_samples_;
};

class TaskData final : public RunData {
 public:
  explicit TaskData(const Config& config)
      : data_(config.data),
        micro_batch_(config.trainer.micro_batch),
        examples_(std::make_shared<data::TaskExamples>(data_, static_cast<std::uint64_t>(config.seed))),
        training_(examples_, data_, static_cast<std::uint64_t>(config.seed)),
        tests_(data::make_tests(examples_, data_)) {}

  const data::Samples& training() const override { return training_; }
  std::int64_t samples_per_epoch() const override { return data_.task.train_samples; }
  std::uint64_t hash() const override { return data::task_hash(data_); }
  std::string setting() const override {
    return fmt::format("data.task.name = {}", data::spelling(data_.task.name));
  }
  std::string description() const override {
    return fmt::format("task {}: vocabulary {}, {} test(s) of {} examples, hash {}",
                       data::spelling(data_.task.name), examples_->task().vocabulary(), tests_.size(),
                       data_.task.test_samples, hex(hash()));
  }
  std::string tokenizer_text() const override { return {}; }
  bool has_validation() const override { return true; }
  Evaluation validate(const model::LanguageModel& model, parallel::Communicator& data_group) const override {
    return evaluate_task(model, tests_, micro_batch_, data_group);
  }

 private:
  data::DataConfig data_;
  std::int64_t micro_batch_;
  std::shared_ptr<const data::TaskExamples> examples_;
  data::TaskTraining training_;
  std::vector<data::TaskTest> tests_;
};

}  // namespace

std::unique_ptr<RunData> make_run_data(const Config& config) {
  if (config.data.task.name == data::TaskName::none) return std::make_unique<CorpusData>(config);
  return std::make_unique<TaskData>(config);
}

}  // namespace wuneng::trainer
