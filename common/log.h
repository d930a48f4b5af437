// Logging: lines on the terminal (rank 0 only, unless something is wrong) and in RUN/log.txt.
#pragma once

#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>

namespace wuneng {

using Logger = std::shared_ptr<spdlog::logger>;

// A logger that writes to standard error. On a terminal, where a progress line shows the steps, debug lines
// go to the file only. Ranks other than 0 pass warnings and errors only, with their rank in front.
Logger make_logger(int rank, int ranks);

// Makes the logger write every line to `file` too, with time stamps (appending: a resumed run continues its
// log). Throws UsageError when the file cannot be opened.
void log_to_file(const Logger& logger, const std::filesystem::path& file);

}  // namespace wuneng
