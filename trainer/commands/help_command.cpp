#include <cstdio>

#include "trainer/agreement.h"
#include "trainer/commands/commands.h"
#include "trainer/config.h"

namespace wuneng::trainer {

Command add_help(CLI::App& program) {
  auto topic = std::make_shared<std::string>();
  CLI::App* app = program.add_subcommand("help", "Explain a topic: config lists every configuration key");
  app->add_option("TOPIC", *topic, "config")->required()->check(CLI::IsMember({"config"}));
  return {app, [topic](Invocation& invocation) {
            if (invocation.world.rank() == 0) std::fputs(describe_config_keys().c_str(), stdout);
            return ExitCode::done;
          }};
}

void add_device(CLI::App& app, parallel::DeviceKind& device) {
  using parallel::DeviceKind;
  static const std::map<std::string, DeviceKind> kinds{
      {"auto", DeviceKind::automatic}, {"cpu", DeviceKind::cpu}, {"cuda", DeviceKind::cuda}};
  app.add_option_function<std::string>(
         "--device", [&device](const std::string& name) { device = kinds.at(name); },
         "Where to compute; auto: on a GPU where the host has one")
      ->type_name("auto|cpu|cuda")
      ->check(CLI::IsMember(kinds, CLI::ignore_space).description(""));
}

void require_one_process(const Invocation& invocation, const std::string& command) {
  const int processes = invocation.world.size();
  if (processes == 1) return;
  throw AgreedError(fmt::format("wuneng {} works in one process, but {} were started: run it without mpirun",
                                command, processes),
                    ExitCode::usage);
}

}  // namespace wuneng::trainer
