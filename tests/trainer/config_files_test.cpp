// Every file in configs/ is a configuration.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "trainer/config.h"

namespace wuneng::trainer {
namespace {

TEST(ConfigFiles, AllOfThemLoad) {
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(
           std::filesystem::path(std::getenv("WUNENG_SOURCE")) / "configs"))
    if (entry.path().extension() == ".yaml") {
      ++files;
      EXPECT_NO_THROW(load_config(entry.path())) << entry.path();
    }
  EXPECT_GE(files, 4);
}

}  // namespace
}  // namespace wuneng::trainer
