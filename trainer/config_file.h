// Configuration files: YAML in, settings of known keys out, each with the place where it was written.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "trainer/config_value.h"

namespace wuneng::trainer {

struct Setting {
  const Key* key;
  WrittenValue value;
};

// The settings of `file` and of the files it extends, in the order to apply them: a later setting of the same
// key wins. Every file comes after those it extends; one reached on two ways counts once, at its first place.
// Throws UsageError with file and line for YAML errors, unknown or duplicate names, and circles of files.
std::vector<Setting> read_config_file(const std::filesystem::path& file);

// The settings of a text that extends nothing; `place` stands for the file name in errors.
std::vector<Setting> read_config_text(const std::string& yaml, const std::string& place);

// "a.b.c=value", the argument of --set.
Setting read_override(const std::string& assignment);

}  // namespace wuneng::trainer
