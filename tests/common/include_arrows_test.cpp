// The arrows of the house: a folder includes only itself and the folders below it.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>

namespace {

const std::map<std::string, std::set<std::string>> may_include{
    {"common", {"common"}},
    {"kernels", {"kernels", "common"}},
    {"parallel", {"parallel", "kernels", "common"}},
    {"model", {"model", "parallel", "kernels", "common"}},
    {"data", {"data", "common"}},
    {"trainer", {"trainer", "data", "model", "parallel", "kernels", "common"}},
};

// Of parallel/, a model sees the layers and what they are made of, and no mesh, world, or gradient reduction.
const std::set<std::string> model_may_see{"parallel/layers.h", "parallel/parameters.h",
                                          "parallel/communicator.h", "parallel/stream.h"};

const std::regex include_line(R"re(^\s*#\s*include\s+"(([a-z0-9_]+)/[^"]*)")re");

TEST(House, IncludesPointDownwards) {
  const std::filesystem::path root = std::getenv("WUNENG_SOURCE");
  std::size_t seen = 0;
  for (const auto& [folder, allowed] : may_include)
    for (const auto& entry : std::filesystem::recursive_directory_iterator(root / folder)) {
      const std::string extension = entry.path().extension().string();
      if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
      std::ifstream file(entry.path());
      std::smatch match;
      for (std::string line; std::getline(file, line);) {
        if (!std::regex_search(line, match, include_line)) continue;
        ++seen;
        EXPECT_TRUE(allowed.contains(match[2])) << entry.path() << " includes " << match[1];
        const bool seen_by_model =
            folder != "model" || match[2] != "parallel" || model_may_see.contains(match[1]);
        EXPECT_TRUE(seen_by_model) << entry.path() << " includes " << match[1];
      }
    }
  EXPECT_GT(seen, 50u) << "the test read too few include lines to mean anything";
}

TEST(House, ThereIsNoOtherFolder) {
  const std::filesystem::path root = std::getenv("WUNENG_SOURCE");
  const std::set<std::string> other{"cmake", "configs", "scripts", "tests", "runs", "corpora"};
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_directory() || name.starts_with(".") || name.starts_with("build")) continue;
    EXPECT_TRUE(may_include.contains(name) || other.contains(name)) << name;
  }
}

}  // namespace
