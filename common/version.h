// What this program is: shown by --version, kept in every run folder, compared between ranks at start.
#pragma once

#include <string>

namespace wuneng {

struct Version {
  std::string version;     // "0.1.0"
  std::string git_commit;  // of the sources at configure time, with "+changes" when the tree was not clean
  std::string build_type;  // "Release"
  std::string compiler;    // "GNU 12.2.0"
  std::string cuda;        // version of the toolkit, or "off"
};

const Version& version();

}  // namespace wuneng
