// YAML as all our files hold it: one document, plain values, errors with file and line.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

#include "trainer/config_value.h"

namespace wuneng::trainer {

// The one document of a text; `place` stands for the file name. Throws UsageError with the line when it is
// not valid YAML, or holds a second document.
YAML::Node parse_yaml(const std::string& yaml, const std::string& place);

// "configs/x.yaml:7: model.width", which opens every error about a name.
std::string subject_of(const std::string& place, const YAML::Mark& mark, const std::string& name);

// The one value that stands at `subject`. Throws UsageError for none, a section, a list or a tag.
WrittenValue written_value(const YAML::Node& node, const std::string& subject);

}  // namespace wuneng::trainer
