#include "trainer/run_folder.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/file.h"

namespace wuneng::trainer {
namespace {

void check_same_run(const std::filesystem::path& file, const Config& config) {
  const std::vector<std::string> different =
      differences(parse_config(read_text(file), file.string()), config);
  if (different.empty()) return;
  std::string list;
  for (const std::string& line : different) list += "\n  " + line;
  throw UsageError(
      fmt::format("{}: this run was started with another configuration (stored -> asked for):{}\n"
                  "choose another --output for a new run, or set these back to go on with this one",
                  file.parent_path().string(), list));
}

}  // namespace

void RunFolder::open(const Config& config, const Json& launch) const {
  make_folder(path_);
  WN_REQUIRE(::access(path_.c_str(), W_OK | X_OK) == 0,
             "{}: this folder cannot be written; choose another --output", path_.string());
  if (std::filesystem::exists(this->config())) {
    check_same_run(this->config(), config);
  } else {
    WN_REQUIRE(
        std::filesystem::is_empty(path_),
        "{}: this folder is neither empty nor a run folder (it has no config.yaml); choose another --output",
        path_.string());
  }
  make_folder(checkpoints());
  make_folder(tensorboard());
  const std::filesystem::path run = path_ / "run.json";
  Json record = std::filesystem::exists(run) ? read_json(run) : Json{{"launches", Json::array()}};
  record["launches"].push_back(launch);
  write_file_atomically(this->config(), to_yaml(config));
  write_file_atomically(run, record.dump(2) + "\n");
}

}  // namespace wuneng::trainer
