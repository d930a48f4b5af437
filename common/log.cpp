#include "common/log.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include "common/check.h"

namespace wuneng {

Logger make_logger(int rank, int ranks) {
  auto terminal = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  terminal->set_pattern(ranks > 1 && rank > 0 ? fmt::format("[rank {}] %v", rank) : "%v");
  terminal->set_level(::isatty(STDERR_FILENO) ? spdlog::level::info : spdlog::level::debug);
  auto logger = std::make_shared<spdlog::logger>("wuneng", terminal);
  logger->set_level(rank == 0 ? spdlog::level::debug : spdlog::level::warn);
  logger->flush_on(spdlog::level::debug);
  return logger;
}

void log_to_file(const Logger& logger, const std::filesystem::path& file) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string());
    sink->set_pattern("%Y-%m-%d %H:%M:%S.%e %L %v");
    logger->sinks().push_back(std::move(sink));
  } catch (const spdlog::spdlog_ex& error) {
    throw UsageError(
        fmt::format("{}: cannot write the log: {}; choose another --output", file.string(), error.what()));
  }
}

}  // namespace wuneng
