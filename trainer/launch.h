// What a run says about itself when it starts.
#pragma once

#include <string>

#include "common/json.h"
#include "model/language_model.h"
#include "parallel/world.h"
#include "trainer/config.h"

namespace wuneng::trainer {

// Threads of this process: `asked`, or (0) its share of the cores that it may run on.
int threads_per_process(std::int64_t asked, int processes_on_this_node);

// Version, commit, build type, compiler and LibTorch in one line; ranks must agree on it.
std::string build_identity();

// One entry of run.json: time, command line, versions, hosts, mesh (its resolved `axes`), device, threads,
// environment that matters. All ranks call it.
Json launch_record(const std::string& command_line, parallel::World& world,
                   const parallel::ParallelConfig& axes, const std::string& device);

// A large number in a few characters: "3.29 M".
std::string short_count(double count);

// What to warn of when ranks that share each layer are on several hosts, by the launch_record; else empty.
std::string tensor_ranks_apart(const Json& launch);

// The lines that rank 0 prints before the first step; `launch` is the launch_record, `data` describes the
// run's data.
std::string banner(const Config& config, const Json& launch, const model::LanguageModel& model,
                   const std::string& data, const std::string& folder);

}  // namespace wuneng::trainer
