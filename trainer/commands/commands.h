// The commands of the program, one file each: a function adds the command's flags to the command line and
// returns what it does.
#pragma once

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>

#include <functional>
#include <string>

#include "common/check.h"
#include "parallel/world.h"
#include "trainer/train.h"

namespace wuneng::trainer {

struct Invocation {
  parallel::World& world;
  Activity& activity;
  std::string command_line;
};

using CommandBody = std::function<ExitCode(Invocation&)>;

struct Command {
  CLI::App* app;
  CommandBody run;
};

Command add_train(CLI::App& program);
Command add_evaluate(CLI::App& program);
Command add_generate(CLI::App& program);
Command add_tokenize(CLI::App& program);
Command add_inspect(CLI::App& program);
Command add_export(CLI::App& program);
Command add_import(CLI::App& program);
Command add_ablate(CLI::App& program);
Command add_help(CLI::App& program);

// The option --device.
void add_device(CLI::App& app, parallel::DeviceKind& device);

// For commands that do their work in one process.
void require_one_process(const Invocation& invocation, const std::string& command);

}  // namespace wuneng::trainer
