#include "trainer/config_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "common/check.h"
#include "common/file.h"
#include "trainer/config_spelling.h"
#include "trainer/yaml.h"

namespace wuneng::trainer {
namespace {

struct Extends {
  std::string file;
  std::string subject;  // "configs/x.yaml:1: extends: base.yaml"
};

struct Document {
  std::vector<Extends> extends;
  std::vector<Setting> settings;
};

// Walks the sections of one document.
class DocumentReader {
 public:
  explicit DocumentReader(std::string place) : place_(std::move(place)) {}

  Document read(const YAML::Node& root) {
    WN_REQUIRE(root.IsMap() || root.IsNull(), "{}: must hold sections such as `model:`, not a {}", place_,
               root.IsScalar() ? "single value" : "list");
    read_section(root, "");
    return std::move(document_);
  }

 private:
  void read_section(const YAML::Node& section, const std::string& path) {
    std::map<std::string, int> lines;  // of the names seen
    for (const auto& entry : section) {
      const YAML::Mark mark = entry.first.Mark();
      const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
      WN_REQUIRE(!name.empty(), "{}:{}: a name must be a plain word", place_, mark.line + 1);
      const std::string child = path.empty() ? name : path + "." + name;
      const std::string subject = subject_of(place_, mark, child);
      const auto [first, is_new] = lines.emplace(name, mark.line + 1);
      WN_REQUIRE(is_new, "{}: is given twice, first in line {}; remove one", subject, first->second);
      if (child == "extends") {
        read_extends(entry.second, subject);
      } else {
        read_entry(entry.second, name, child, subject);
      }
    }
  }

  void read_entry(const YAML::Node& node, const std::string& name, const std::string& path,
                  const std::string& subject) {
    WN_REQUIRE(name.find('.') == std::string::npos,
               "{}: write nested sections here; names with dots are for --set on the command line", subject);
    if (is_section(path)) {
      const std::string given = node.IsScalar() ? " = " + node.Scalar() : "";
      WN_REQUIRE(node.IsMap() || node.IsNull(),
                 "{}{}: is a section and takes no value of its own; it holds: {}", subject, given,
                 fmt::join(names_in(path), ", "));
      read_section(node, path);
      return;
    }
    const Key* key = find_key(path);
    const NameKind kind = node.IsMap() ? NameKind::section : NameKind::key;
    WN_REQUIRE(key != nullptr, "{}: unknown {}; {}", subject, kind == NameKind::section ? "section" : "key",
               spelling_hint(path, kind));
    document_.settings.push_back({key, written_value(node, subject)});
  }

  void read_extends(const YAML::Node& node, const std::string& subject) {
    const bool valid = node.IsScalar() || node.IsSequence();
    WN_REQUIRE(valid, "{}: must be a file name or a list of file names", subject);
    const std::size_t count = node.IsSequence() ? node.size() : 1;
    for (std::size_t i = 0; i < count; ++i) {
      const YAML::Node file = node.IsSequence() ? node[i] : node;
      WN_REQUIRE(file.IsScalar() && !file.Scalar().empty(), "{}: must be a file name or a list of file names",
                 subject);
      document_.extends.push_back({file.Scalar(), subject + ": " + file.Scalar()});
    }
  }

  std::string place_;
  Document document_;
};

Document parse(const std::string& yaml, const std::string& place) {
  return DocumentReader(place).read(parse_yaml(yaml, place));
}

// Follows `extends:` from file to file.
class FileReader {
 public:
  void read(const std::filesystem::path& file) {
    Document document = parse(read_text(file), file.string());
    open_.push_back(file);
    for (const Extends& base : document.extends) read_base(file.parent_path() / base.file, base.subject);
    open_.pop_back();
    finished_.push_back(file);
    std::ranges::move(document.settings, std::back_inserter(settings_));
  }

  std::vector<Setting> take() { return std::move(settings_); }

 private:
  static bool contains(const std::vector<std::filesystem::path>& files, const std::filesystem::path& file) {
    return std::ranges::any_of(files,
                               [&](const auto& other) { return std::filesystem::equivalent(other, file); });
  }

  void read_base(const std::filesystem::path& path, const std::string& subject) {
    const std::filesystem::path file = path.lexically_normal();
    std::error_code error;
    WN_REQUIRE(std::filesystem::is_regular_file(file, error), "{}: there is no file {}", subject,
               file.string());
    if (contains(open_, file)) {
      std::vector<std::string> chain;
      for (const auto& open : open_) chain.push_back(open.string());
      throw UsageError(fmt::format("{}: files extend each other in a circle: {} -> {}", subject,
                                   fmt::join(chain, " -> "), file.string()));
    }
    if (!contains(finished_, file)) read(file);
  }

  std::vector<std::filesystem::path> open_;      // the chain from the first file to the current one
  std::vector<std::filesystem::path> finished_;  // already in settings_
  std::vector<Setting> settings_;
};

}  // namespace

std::vector<Setting> read_config_file(const std::filesystem::path& file) {
  FileReader reader;
  reader.read(file);
  return reader.take();
}

std::vector<Setting> read_config_text(const std::string& yaml, const std::string& place) {
  Document document = parse(yaml, place);
  WN_REQUIRE(document.extends.empty(), "{}: a resolved configuration extends nothing",
             document.extends[0].subject);
  return std::move(document.settings);
}

Setting read_override(const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  WN_REQUIRE(equals != std::string::npos && equals > 0,
             "--set {}: must be KEY=VALUE, such as trainer.steps=1000", assignment);
  const std::string path = assignment.substr(0, equals);
  const std::string subject = "--set " + assignment;
  WN_REQUIRE(!is_section(path), "{}: {} is a section; set one of the names in it: {}", subject, path,
             fmt::join(names_in(path), ", "));
  const Key* key = find_key(path);
  WN_REQUIRE(key != nullptr, "{}: unknown key; {}", subject, spelling_hint(path, NameKind::key));
  return {key, {assignment.substr(equals + 1), false, subject}};
}

}  // namespace wuneng::trainer
