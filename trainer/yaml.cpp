#include "trainer/yaml.h"

#include <fmt/format.h>
#include <yaml-cpp/eventhandler.h>

#include <sstream>
#include <vector>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

// Notes where each document of a file starts and ignores what it holds.
class DocumentStarts final : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark& mark) override { lines.push_back(mark.line + 1); }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}

  std::vector<int> lines;
};

// YAML::Load() drops everything after the first document, and YAML::LoadAll() never returns when a text
// starts with a comma.
void check_single_document(const std::string& yaml, const std::string& place) {
  std::istringstream stream(yaml);
  YAML::Parser parser(stream);
  DocumentStarts starts;
  while (starts.lines.size() < 2 && parser.HandleNextDocument(starts)) continue;
  WN_REQUIRE(starts.lines.size() < 2,
             "{}:{}: a second YAML document starts here; keep one, without `---` or `,` between sections",
             place, starts.lines[1]);
}

}  // namespace

YAML::Node parse_yaml(const std::string& yaml, const std::string& place) {
  try {
    YAML::Node root = YAML::Load(yaml);
    check_single_document(yaml, place);
    return root;
  } catch (const YAML::Exception& error) {
    throw UsageError(fmt::format("{}:{}: is not valid YAML: {} (column {})", place, error.mark.line + 1,
                                 error.msg, error.mark.column + 1));
  }
}

std::string subject_of(const std::string& place, const YAML::Mark& mark, const std::string& name) {
  return fmt::format("{}:{}: {}", place, mark.line + 1, name);
}

WrittenValue written_value(const YAML::Node& node, const std::string& subject) {
  WN_REQUIRE(!node.IsNull(), "{}: has no value; write one, or \"\" for an empty text", subject);
  WN_REQUIRE(node.IsScalar(), "{}: takes one value, not {}", subject, node.IsMap() ? "a section" : "a list");
  const std::string& tag = node.Tag();
  WN_REQUIRE(tag.empty() || tag == "?" || tag == "!", "{}: write the plain value, without the tag {}",
             subject, tag);
  return {node.Scalar(), tag == "!", fmt::format("{} = {}", subject, node.Scalar())};
}

}  // namespace wuneng::trainer
