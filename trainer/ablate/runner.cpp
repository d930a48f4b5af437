#include "trainer/ablate/runner.h"

#include <signal.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "common/file.h"
#include "common/json.h"
#include "common/log.h"
#include "trainer/ablate/child.h"
#include "trainer/ablate/live_table.h"
#include "trainer/ablate/report.h"
#include "trainer/ablate/results.h"

namespace wuneng::trainer::ablate {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Signals that runner and children speak by, held back for its life so that the runner takes them when it is
// ready.
class HeldSignals {
 public:
  HeldSignals() {
    sigemptyset(&set_);
    for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGCHLD}) sigaddset(&set_, number);
    ::pthread_sigmask(SIG_BLOCK, &set_, &former_);
  }
  ~HeldSignals() { ::pthread_sigmask(SIG_SETMASK, &former_, nullptr); }
  HeldSignals(const HeldSignals&) = delete;
  HeldSignals& operator=(const HeldSignals&) = delete;

  // Waits for one of them; 0 when none comes in time.
  int wait(std::chrono::milliseconds limit) const {
    const timespec time{limit.count() / 1000, limit.count() % 1000 * 1'000'000};
    const int number = ::sigtimedwait(&set_, nullptr, &time);
    return number > 0 ? number : 0;
  }

 private:
  sigset_t set_, former_;
};

// What a process said from `begin` on: its last error, or its last line.
std::string last_words(const std::filesystem::path& output, std::size_t begin, int code) {
  const std::string text = read_text(output).substr(begin);
  constexpr std::string_view mark = "wuneng: error: ";
  std::string last, error;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty()) last = line;
    if (const std::size_t at = line.find(mark); at != std::string::npos)
      error = line.substr(at + mark.size());
  }
  if (!error.empty()) return error;
  if (code > 128 && code < 128 + NSIG)
    return fmt::format("ended by signal {} ({})", code - 128, ::strsignal(code - 128));
  return last.empty() ? "it said nothing" : last;
}

// The last training line of a metrics file, from its end.
std::optional<ProgressLine::State> last_step(const std::filesystem::path& file, const PlannedRun& run,
                                             double flops_per_token) {
  constexpr std::streamoff most = 8192;
  std::ifstream stream(file, std::ios::binary | std::ios::ate);
  if (!stream) return std::nullopt;
  const std::streamoff size = stream.tellg();
  stream.seekg(std::max<std::streamoff>(0, size - most));
  std::optional<ProgressLine::State> state;
  for (std::string text; std::getline(stream, text);) {
    const Json line = Json::parse(text, nullptr, false);
    if (!line.is_object() || !line.contains("step_seconds") || !line.contains("loss")) continue;
    const double speed = line.value("tokens_per_second", 0.0);
    state = {.step = line["step"].get<std::int64_t>(),
             .steps = run.config.trainer.steps,
             .loss = line["loss"].is_number() ? line["loss"].get<double>() : std::nan(""),
             .tokens_per_second = speed,
             .flops_per_second = speed * flops_per_token,
             .seconds_per_step = line["step_seconds"].get<double>()};
  }
  return state;
}

class Runner {
 public:
  Runner(const Plan& plan, const Folder& folder, const RunnerOptions& options)
      : plan_(plan), folder_(folder), options_(options), logger_(make_logger(0, 1)), began_(Clock::now()) {
    cores_ = options.launch.empty() ? share_cores(options.jobs)
                                    : std::vector<std::vector<int>>(static_cast<std::size_t>(options.jobs));
    for (const PlannedRun& run : plan.runs) {
      if (folder.finished(run)) {
        ++finished_;
      } else {
        waiting_.push_back(&run);
        flops_left_ += plan.variant_of(run).flops();
      }
    }
  }

  ExitCode operator()() {
    const HeldSignals signals;
    logger_->info("{}: {} runs, {} of them finished before", folder_.path().string(), plan_.runs.size(),
                  finished_);
    while (!running_.empty() || (!stopping_ && next_ < waiting_.size())) {
      while (!stopping_ && next_ < waiting_.size() && running_.size() < cores_.size())
        start(*waiting_[next_++]);
      table_.show(state());
      take(signals.wait(std::chrono::milliseconds(300)));
      for (std::size_t i = running_.size(); i-- > 0;)
        if (const auto end = running_[i].child.ended()) finish(i, *end);
    }
    table_.clear();
    write_report(read_report_data(plan_, folder_), folder_);
    return conclude();
  }

 private:
  struct Running {
    const PlannedRun* run;
    Child child;
    std::size_t slot;         // index into cores_
    std::size_t output_size;  // of its output file before it started
    Clock::time_point began;
  };

  void start(const PlannedRun& run) {
    std::size_t slot = 0;
    while (std::ranges::any_of(running_, [&](const Running& other) { return other.slot == slot; })) ++slot;
    const std::filesystem::path output = folder_.output(run);
    const std::size_t size = std::filesystem::exists(output) ? std::filesystem::file_size(output) : 0;
    log("{}: started", run.name);
    running_.push_back(
        {&run, Child(train_command(folder_, run, options_), output, cores_[slot]), slot, size, Clock::now()});
  }

  void take(int signal) {
    if (signal != SIGINT && signal != SIGTERM && signal != SIGUSR1) return;
    const bool at_once = stopping_ && signal != SIGUSR1;
    if (!stopping_)
      log("stopping: {} running {} saved; the same command goes on. Again to stop without saving",
          running_.size(), running_.size() == 1 ? "run is" : "runs are");
    stopping_ = true;
    const int at_end = options_.launch.empty() ? SIGKILL : SIGTERM;  // a launcher ends its processes
    for (const Running& one : running_) one.child.signal(at_once ? at_end : SIGUSR1);
  }

  void finish(std::size_t index, const ChildExit& end) {
    const Running& one = running_[index];
    const PlannedRun& run = *one.run;
    RunRecord record = folder_.read_record(run).value_or(RunRecord{});
    record.exit_code = end.code;
    record.message =
        end.code == 0 || end.code == 3 ? "" : last_words(folder_.output(run), one.output_size, end.code);
    record.peak_bytes = std::max(record.peak_bytes, end.peak_bytes);
    record.seconds += seconds_since(one.began);
    record.launches += 1;
    folder_.write_record(run, record);
    if (end.code == 0) {
      ++finished_;
      flops_done_ += plan_.variant_of(run).flops();
      log("{}: done in {}{} ({} of {})", run.name, duration_text(record.seconds), result_text(run), finished_,
          plan_.runs.size());
    } else if (end.code == 3) {
      stopped_ = true;
      log("{}: stopped after saving", run.name);
    } else {
      failed_.push_back(run.name + ": " + record.message);
      log("{}: failed: {}", run.name, record.message);
    }
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(index));
    write_report(read_report_data(plan_, folder_), folder_);
  }

  std::string result_text(const PlannedRun& run) const {
    const RunResult result = read_metrics(folder_.metrics(run), 0.0);
    if (result.evaluations.empty()) return "";
    std::string text;
    for (const Metric& metric : plan_.file.metrics)
      if (const auto value = result.evaluations.back().value(metric))
        text += fmt::format(", {} {:.4f}", metric.name, *value);
    return text;
  }

  LiveState state() const {
    LiveState state{.runs = plan_.runs.size(), .finished = finished_, .failed = failed_.size()};
    double done = flops_done_;
    for (const Running& one : running_) {
      const Variant& variant = plan_.variant_of(*one.run);
      const auto step = last_step(folder_.metrics(*one.run), *one.run, variant.flops_per_token);
      if (step) done += variant.flops() * static_cast<double>(step->step) / static_cast<double>(step->steps);
      state.running.push_back({one.run->name, step});
    }
    if (done > 0.0) state.seconds_left = seconds_since(began_) * (flops_left_ / done - 1.0);
    return state;
  }

  ExitCode conclude() const {
    for (const std::string& failure : failed_) logger_->error("failed: {}", failure);
    logger_->info("{} of {} runs finished; {}", finished_, plan_.runs.size(),
                  (folder_.path() / "report.html").string());
    if (stopping_ || stopped_) {
      if (finished_ + failed_.size() < plan_.runs.size()) return ExitCode::stopped;
    }
    return failed_.empty() ? ExitCode::done : ExitCode::failed;
  }

  template <class... Values>
  void log(fmt::format_string<Values...> format, Values&&... values) {
    table_.clear();
    logger_->info("{}", fmt::format(format, std::forward<Values>(values)...));
  }

  const Plan& plan_;
  const Folder& folder_;
  const RunnerOptions& options_;
  Logger logger_;
  LiveTable table_;
  Clock::time_point began_;
  std::vector<std::vector<int>> cores_;  // by slot; empty: not pinned
  std::vector<const PlannedRun*> waiting_;
  std::size_t next_ = 0;  // into waiting_
  std::vector<Running> running_;
  std::size_t finished_ = 0;
  std::vector<std::string> failed_;
  bool stopping_ = false, stopped_ = false;
  double flops_left_ = 0.0, flops_done_ = 0.0;  // of this call's runs
};

}  // namespace

std::vector<std::string> words_of(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> words;
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::vector<std::string> train_command(const Folder& folder, const PlannedRun& run,
                                       const RunnerOptions& options) {
  std::vector<std::string> command = options.launch;
  for (const std::string& word : {options.program.string(), std::string("train"), folder.config(run).string(),
                                  std::string("--output"), folder.train(run).string()})
    command.push_back(word);
  return command;
}

void check_ready(const Plan& plan, const RunnerOptions& options) {
  if (options.launch.empty()) static_cast<void>(share_cores(options.jobs));
  const auto check_prefix = [](const char* key, const std::string& prefix) {
    for (const char* ending : {".bin", ".idx"})
      WN_REQUIRE(std::filesystem::exists(prefix + ending),
                 "{} = {}: there is no file {}{}; make it with wuneng tokenize", key, prefix, prefix, ending);
  };
  for (const Variant& variant : plan.variants) {
    const data::DataConfig& data = variant.config.data;
    if (data.task.name != data::TaskName::none) continue;  // made as it is needed
    WN_REQUIRE(!data.train.empty(),
               "data.train: is not set; give the prefix of a tokenised corpus: --set data.train=PREFIX");
    check_prefix("data.train", data.train);
    for (const Metric& metric : plan.file.metrics)
      WN_REQUIRE(!data.validation.empty(),
                 "data.validation: is not set, but {} is measured there; give the prefix of a tokenised "
                 "corpus: --set "
                 "data.validation=PREFIX",
                 metric.name);
    check_prefix("data.validation", data.validation);
  }
}

ExitCode run_all(const Plan& plan, const Folder& folder, const RunnerOptions& options) {
  return Runner(plan, folder, options)();
}

}  // namespace wuneng::trainer::ablate
