#include "trainer/launch.h"

#include <ATen/Parallel.h>
#include <sched.h>
#include <torch/headeronly/version.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include <fmt/chrono.h>
#include <fmt/ranges.h>

#include "common/hash.h"
#include "common/version.h"
#include "kernels/product.h"

extern char** environ;

namespace wuneng::trainer {
namespace {

// Hosts by rank as "h1 x 2, h2 x 2".
std::string count_hosts(const std::vector<std::string>& hosts) {
  std::map<std::string, int> count;
  for (const std::string& host : hosts) ++count[host];
  std::string text;
  std::size_t shown = 0;
  for (const auto& [host, processes] : count) {
    if (++shown > 8) return text + fmt::format(" and {} more", count.size() - 8);
    text += fmt::format("{}{} x {}", shown > 1 ? ", " : "", host, processes);
  }
  return text;
}

// Variables that change how a job runs.
Json relevant_environment() {
  Json environment = Json::object();
  for (char** entry = environ; *entry; ++entry) {
    const std::string text = *entry;
    const std::string name = text.substr(0, text.find('='));
    const bool launcher_state = name.starts_with("OMPI_COMM_WORLD") || name.starts_with("OMPI_MCA_ess") ||
                                name.starts_with("OMPI_MCA_orte");
    if (launcher_state) continue;
    for (const char* prefix :
         {"OMPI_MCA_", "NCCL_", "UCX_", "OMP_", "MKL_", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"})
      if (name.starts_with(prefix)) environment[name] = text.substr(std::min(text.size(), name.size() + 1));
  }
  return environment;
}

}  // namespace

int threads_per_process(std::int64_t asked, int processes_on_this_node) {
  if (asked > 0) return static_cast<int>(asked);
  cpu_set_t cores;
  const bool known = sched_getaffinity(0, sizeof cores, &cores) == 0;
  const long count = known ? CPU_COUNT(&cores) : sysconf(_SC_NPROCESSORS_ONLN);
  const long all = sysconf(_SC_NPROCESSORS_ONLN);
  // A launcher that binds processes to cores has shared them out already.
  return static_cast<int>(std::max(1L, count < all ? count : count / processes_on_this_node));
}

std::string build_identity() {
  const Version& v = version();
  return fmt::format("wuneng {} ({}, {}, {}), LibTorch {}, {}, CUDA {}", v.version, v.git_commit,
                     v.build_type, v.compiler, TORCH_VERSION, kernels::product_library(), v.cuda);
}

Json launch_record(const std::string& command_line, parallel::World& world,
                   const parallel::ParallelConfig& axes, const std::string& device) {
  const auto now = std::chrono::time_point_cast<std::chrono::seconds>(std::chrono::system_clock::now());
  return {{"time", fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", now)},
          {"command", command_line},
          {"folder", std::filesystem::current_path().string()},
          {"build", build_identity()},
          {"mpi", world.library()},
          {"processes", world.size()},
          {"hosts", world.communicator().all_gather_text(world.host())},
          {"mesh", {{"data", axes.data}, {"tensor", axes.tensor}}},
          {"device", device},
          {"threads", at::get_num_threads()},
          {"environment", relevant_environment()}};
}

std::string short_count(double count) {
  if (count >= 1e9) return fmt::format("{:.2f} B", count / 1e9);
  if (count >= 1e6) return fmt::format("{:.2f} M", count / 1e6);
  if (count >= 1e3) return fmt::format("{:.1f} k", count / 1e3);
  return fmt::format("{:.0f}", count);
}

std::string tensor_ranks_apart(const Json& launch) {
  const auto hosts = launch.at("hosts").get<std::vector<std::string>>();
  const auto tensor = launch.at("mesh").at("tensor").get<std::size_t>();
  for (std::size_t first = 0; first < hosts.size(); first += tensor) {
    const std::set<std::string> theirs(hosts.begin() + static_cast<std::ptrdiff_t>(first),
                                       hosts.begin() + static_cast<std::ptrdiff_t>(first + tensor));
    if (theirs.size() > 1)
      return fmt::format(
          "parallel.tensor = {}: ranks {} to {}, which share each layer, are on several hosts ({}): every "
          "layer waits for the network; let parallel.tensor divide the processes of a host",
          tensor, first, first + tensor - 1, fmt::join(theirs, ", "));
  }
  return "";
}

std::string banner(const Config& config, const Json& launch, const model::LanguageModel& model,
                   const std::string& data, const std::string& folder) {
  const model::ModelConfig& m = config.model;
  const std::int64_t batch_tokens = config.trainer.global_batch * config.data.sequence_length;
  return fmt::format(
      "{}\n"
      "mpi      {}; {} process(es) of {} thread(s), mesh data {} x tensor {}, on {}\n"
      "hosts    {}\n"
      "model    {} parameters: {} layers of {} attention + {} state heads, width {}, vocabulary {}\n"
      "data     {}\n"
      "step     {} sequences of {} = {} tokens, in micro-batches of {}\n"
      "run      {} (configuration {})",
      launch.at("build").get<std::string>(), launch.at("mpi").get<std::string>(),
      launch.at("processes").get<int>(), launch.at("threads").get<int>(),
      launch.at("mesh").at("data").get<std::int64_t>(), launch.at("mesh").at("tensor").get<std::int64_t>(),
      launch.at("device").get<std::string>(), count_hosts(launch.at("hosts").get<std::vector<std::string>>()),
      short_count(static_cast<double>(model.parameter_count())), m.layers, m.attention.heads, m.state.heads,
      m.width, m.vocab_size, data, config.trainer.global_batch, config.data.sequence_length, batch_tokens,
      config.trainer.micro_batch, folder, hex(identity_hash(config)));
}

}  // namespace wuneng::trainer
