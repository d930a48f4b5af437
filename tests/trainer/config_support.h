// What the tests of the configuration share: a folder of files, and the message of an error.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <string>

#include "common/check.h"
#include "common/file.h"

namespace wuneng::trainer {

// A folder of its own, removed with everything in it.
class ConfigFolder {
 public:
  ConfigFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "wuneng-config-XXXXXX").string();
    WN_CHECK(::mkdtemp(name.data()) != nullptr, "{}: cannot be created", name);
    path_ = name;
  }
  ~ConfigFolder() { std::filesystem::remove_all(path_); }
  ConfigFolder(const ConfigFolder&) = delete;

  // Writes the file and returns its path.
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    write_file_atomically(file, text);
    return file;
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// The message of the UsageError that `action` throws; empty when it throws nothing.
inline std::string problem_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

}  // namespace wuneng::trainer
