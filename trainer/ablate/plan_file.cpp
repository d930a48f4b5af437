#include "trainer/ablate/plan_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <sstream>

#include "common/check.h"
#include "common/file.h"
#include "trainer/config_spelling.h"
#include "trainer/yaml.h"

namespace wuneng::trainer::ablate {
namespace {

const std::vector<std::string_view> top_names{"question", "base",      "overrides", "variants",
                                              "grids",    "reference", "seeds",     "budget",
                                              "match",    "metrics",   "sizes"};
const std::vector<std::string_view> size_names{"base", "overrides", "variants", "budget", "metrics"};

// One name of a section, with what stands under it.
struct Entry {
  std::string name;
  YAML::Node value;
  std::string subject;
};

class Reader {
 public:
  Reader(std::filesystem::path path, const Choices& choices) : choices_(choices) {
    file_.path = std::move(path);
    place_ = file_.path.string();
  }

  PlanFile read() {
    const YAML::Node root = parse_yaml(read_text(file_.path), place_);
    WN_REQUIRE(root.IsMap(), "{}: must hold an ablation: question, base, variants, seeds, budget", place_);
    const std::vector<Entry> all = entries(root, "", top_names);
    for (const Entry& entry : all) read_entry(entry);
    read_size(all);
    for (const std::string& assignment : choices_.overrides) {
      file_.overrides.push_back(read_override(assignment));
      refuse_decided(*file_.overrides.back().key, file_.overrides.back().value.subject);
      from_command_line_.push_back(file_.overrides.back());
    }
    if (!choices_.seeds.empty()) read_seed_list();
    if (!choices_.budget.empty()) read_budget_choice();
    finish();
    return std::move(file_);
  }

 private:
  // Names of a section in the order of the file; with `known`, no others.
  std::vector<Entry> entries(const YAML::Node& map, const std::string& path,
                             const std::vector<std::string_view>& known = {}) const {
    std::vector<Entry> list;
    std::map<std::string, int> lines;
    for (const auto& item : map) {
      const YAML::Mark mark = item.first.Mark();
      WN_REQUIRE(item.first.IsScalar() && !item.first.Scalar().empty(), "{}:{}: a name must be a plain word",
                 place_, mark.line + 1);
      const std::string name = item.first.Scalar();
      const std::string subject = subject_of(place_, mark, path.empty() ? name : path + ": " + name);
      const auto [first, is_new] = lines.emplace(name, mark.line + 1);
      WN_REQUIRE(is_new, "{}: is given twice, first in line {}; remove one", subject, first->second);
      if (!known.empty())
        WN_REQUIRE(std::ranges::find(known, name) != known.end(), "{}: unknown name; {}", subject,
                   spelling_hint(name, known));
      list.push_back({name, item.second, subject});
    }
    return list;
  }

  static const YAML::Node& section(const Entry& entry, const char* holds) {
    WN_REQUIRE(entry.value.IsMap(), "{}: must hold {}", entry.subject, holds);
    return entry.value;
  }
  static const YAML::Node& list(const Entry& entry, const char* holds) {
    WN_REQUIRE(entry.value.IsSequence() && entry.value.size() > 0, "{}: must be a list of {}", entry.subject,
               holds);
    return entry.value;
  }

  void read_entry(const Entry& entry) {
    if (entry.name == "question") file_.question = written_value(entry.value, entry.subject).text;
    if (entry.name == "base") read_base(entry);
    if (entry.name == "overrides") file_.overrides = settings(entry);
    if (entry.name == "variants") read_variants(entry);
    if (entry.name == "grids") read_grids(entry);
    if (entry.name == "reference") reference_ = written_value(entry.value, entry.subject);
    if (entry.name == "seeds") read_seeds(entry);
    if (entry.name == "budget") read_budget(entry);
    if (entry.name == "match") read_match(entry);
    if (entry.name == "metrics") read_metrics(entry);
  }

  void read_base(const Entry& entry) {
    const std::string name = written_value(entry.value, entry.subject).text;
    file_.base = (file_.path.parent_path() / name).lexically_normal();
    std::error_code error;
    WN_REQUIRE(std::filesystem::is_regular_file(file_.base, error), "{} = {}: there is no file {}",
               entry.subject, name, file_.base.string());
  }

  static void refuse_decided(const Key& key, const std::string& subject) {
    WN_REQUIRE(key.path != "seed", "{}: the ablation sets the seed of each run; use seeds", subject);
    WN_REQUIRE(key.path != "trainer.steps", "{}: the ablation sets the steps of each run; use budget",
               subject);
  }

  const Key& key_of(const Entry& entry) const {
    WN_REQUIRE(!is_section(entry.name),
               "{}: is a section; write whole names with dots here, as in --set: {}.{}", entry.subject,
               entry.name, names_in(entry.name).front());
    const Key* key = find_key(entry.name);
    WN_REQUIRE(key, "{}: unknown key; {}", entry.subject, spelling_hint(entry.name, NameKind::key));
    refuse_decided(*key, entry.subject);
    return *key;
  }

  // Overrides "a.b.c: value"; an empty section has none.
  std::vector<Setting> settings(const Entry& entry) const {
    if (entry.value.IsNull()) return {};
    std::vector<Setting> result;
    const std::string path = entry.subject.substr(entry.subject.find(": ") + 2);
    for (const Entry& item : entries(section(entry, "overrides such as model.fusion.mode: gated"), path))
      result.push_back({&key_of(item), written_value(item.value, item.subject)});
    return result;
  }

  void add_variant(WrittenVariant variant) {
    const bool good = std::ranges::all_of(variant.name, [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '_' || c == '.' || c == '+';
    });
    WN_REQUIRE(good && std::isalnum(static_cast<unsigned char>(variant.name[0])),
               "{}: a variant's name is also a folder's: letters, digits and - _ . + only, the first a "
               "letter or digit",
               variant.subject);
    WN_REQUIRE(!find(variant.name), "{}: there are two variants of this name; rename one", variant.subject);
    file_.variants.push_back(std::move(variant));
  }

  WrittenVariant* find(const std::string& name) {
    const auto found = std::ranges::find(file_.variants, name, &WrittenVariant::name);
    return found == file_.variants.end() ? nullptr : &*found;
  }

  void read_variants(const Entry& entry) {
    for (const Entry& item : entries(section(entry, "variants, each with its overrides"), entry.name))
      add_variant({item.name, item.subject, settings(item)});
  }

  // Each grid is a section of keys with lists of values; a variant for every combination, the last key
  // changing fastest.
  void read_grids(const Entry& entry) {
    for (const YAML::Node& grid : list(entry, "grids, each a section of keys with lists of values")) {
      WN_REQUIRE(grid.IsMap() && grid.size() > 0,
                 "{}: each grid is a section such as {{model.fusion.mode: [concat, gated]}}",
                 subject_of(place_, grid.Mark(), entry.name));
      std::vector<WrittenVariant> product{{"", subject_of(place_, grid.Mark(), entry.name), {}}};
      for (const Entry& item : entries(grid, entry.name)) {
        const Key& key = key_of(item);
        std::vector<WrittenVariant> longer;
        for (const WrittenVariant& variant : product)
          for (const YAML::Node& value : list(item, "values")) {
            WrittenVariant next = variant;
            next.settings.push_back({&key, written_value(value, item.subject)});
            next.name += (next.name.empty() ? "" : "-") + name_of(key, value.Scalar());
            longer.push_back(std::move(next));
          }
        product = std::move(longer);
      }
      for (WrittenVariant& variant : product) {
        variant.subject += " " + variant.name;
        add_variant(std::move(variant));
      }
    }
  }

  // Words speak for themselves; numbers and flags need the key's name.
  static std::string name_of(const Key& key, const std::string& value) {
    return std::holds_alternative<ChoiceKind>(key.kind) ? value
                                                        : fmt::format("{}_{}", last_part(key.path), value);
  }

  void add_seed(const WrittenValue& written) {
    Config config;
    set_value(*find_key("seed"), written, config);
    WN_REQUIRE(std::ranges::find(file_.seeds, config.seed) == file_.seeds.end(),
               "{}: is there twice; equal seeds make equal runs, which tell nothing new", written.subject);
    file_.seeds.push_back(config.seed);
  }

  void read_seeds(const Entry& entry) {
    for (const YAML::Node& seed : list(entry, "numbers, such as [1, 2, 3]"))
      add_seed(written_value(seed, subject_of(place_, seed.Mark(), entry.name)));
  }

  void read_seed_list() {
    file_.seeds.clear();
    std::istringstream words(choices_.seeds);
    for (std::string word; std::getline(words, word, ',');)
      add_seed({word, false, fmt::format("--seeds {}: {}", choices_.seeds, word)});
  }

  void set_budget(const std::string& unit, const WrittenValue& written, const std::string& subject) {
    const std::vector<std::string_view> units{"steps", "tokens", "flops"};
    const auto found = std::ranges::find(units, unit);
    WN_REQUIRE(found != units.end(), "{}: unknown name; {}", subject, spelling_hint(unit, units));
    file_.budget.unit = static_cast<Budget::Unit>(found - units.begin());
    Config config;
    if (file_.budget.unit == Budget::Unit::steps) {
      set_value(*find_key("trainer.steps"), written, config);
      file_.budget.amount = static_cast<double>(config.trainer.steps);
    } else {  // 3.0e+9 is more readable than its zeros: any positive number
      set_value(*find_key("optimizer.eps"), written, config);
      file_.budget.amount = config.optimizer.eps;
    }
  }

  void read_budget(const Entry& entry) {
    const std::vector<Entry> given =
        entries(section(entry, "one of steps, tokens, flops"), entry.name, {"steps", "tokens", "flops"});
    WN_REQUIRE(given.size() == 1, "{}: takes exactly one of steps, tokens, flops", entry.subject);
    set_budget(given[0].name, written_value(given[0].value, given[0].subject), given[0].subject);
  }

  void read_budget_choice() {
    const std::string subject = "--budget " + choices_.budget;
    const std::size_t equals = choices_.budget.find('=');
    WN_REQUIRE(equals != std::string::npos, "{}: must be such as steps=1000, tokens=1e9 or flops=1e15",
               subject);
    set_budget(choices_.budget.substr(0, equals), {choices_.budget.substr(equals + 1), false, subject},
               subject);
  }

  void read_match(const Entry& entry) {
    const WrittenValue written = written_value(entry.value, entry.subject);
    const std::vector<std::string_view> names{"parameters", "flops", "none"};
    const auto found = std::ranges::find(names, written.text);
    WN_REQUIRE(found != names.end(), "{}: must be one of: {}", written.subject, fmt::join(names, ", "));
    file_.match = static_cast<Match>(found - names.begin());
  }

  void read_metrics(const Entry& entry) {
    for (const YAML::Node& node : list(entry, "metrics, such as [validation_loss]")) {
      const WrittenValue written = written_value(node, subject_of(place_, node.Mark(), entry.name));
      const std::string& name = written.text;
      const bool accuracy = name.starts_with("accuracy") && !name.ends_with('@');
      WN_REQUIRE(
          name == "validation_loss" || accuracy,
          "{}: must be validation_loss, or a task's accuracy such as accuracy (the mean over lengths) or "
          "accuracy@128",
          written.subject);
      WN_REQUIRE(std::ranges::find(file_.metrics, name, &Metric::name) == file_.metrics.end(),
                 "{}: is there twice; remove one", written.subject);
      file_.metrics.push_back({name});
    }
  }

  void read_size(const std::vector<Entry>& all) {
    const auto sizes = std::ranges::find(all, "sizes", &Entry::name);
    if (sizes == all.end()) {
      WN_REQUIRE(choices_.size.empty(), "--size {}: {} has no `sizes:`", choices_.size, place_);
      return;
    }
    const std::vector<Entry> given = entries(section(*sizes, "sizes, each with what it changes"), "sizes");
    std::vector<std::string_view> names;
    for (const Entry& size : given) {
      names.push_back(size.name);
      // Read whether it is chosen or not: a mistake in it is one today.
      const PlanFile before = file_;
      for (const Entry& item :
           entries(section(size, "base, overrides, variants, budget or metrics"), "sizes: " + size.name, size_names))
        read_size_entry(item);
      if (size.name != choices_.size) file_ = before;
    }
    WN_REQUIRE(choices_.size.empty() || std::ranges::find(names, choices_.size) != names.end(),
               "--size {}: unknown; {} has: {}", choices_.size, place_, fmt::join(names, ", "));
  }

  void read_size_entry(const Entry& item) {
    if (item.name == "base") read_base(item);
    if (item.name == "budget") read_budget(item);
    if (item.name == "metrics") {
      file_.metrics.clear();
      read_metrics(item);
    }
    if (item.name == "overrides") std::ranges::move(settings(item), std::back_inserter(file_.overrides));
    if (item.name != "variants") return;
    const std::string path = item.subject.substr(item.subject.find(": ") + 2);
    for (const Entry& one : entries(section(item, "variants, each with its overrides"), path)) {
      WrittenVariant* variant = find(one.name);
      WN_REQUIRE(variant, "{}: there is no such variant above; a size only changes those that there are",
                 one.subject);
      std::ranges::move(settings(one), std::back_inserter(variant->settings));
    }
  }

  // What takes the whole file.
  void finish() {
    WN_REQUIRE(!file_.question.empty(), "{}: question: is missing; the report opens with it", place_);
    WN_REQUIRE(!file_.base.empty(), "{}: base: is missing; name the configuration that all start from",
               place_);
    WN_REQUIRE(file_.variants.size() >= 2, "{}: variants: a comparison takes two at least, not {}", place_,
               file_.variants.size());
    WN_REQUIRE(!file_.seeds.empty(), "{}: seeds: is missing; give three or more, such as [1, 2, 3]", place_);
    WN_REQUIRE(file_.budget.amount > 0.0, "{}: budget: is missing; give steps, tokens or flops", place_);
    if (file_.metrics.empty()) file_.metrics.push_back({"validation_loss"});
    file_.reference = reference_ ? reference_->text : file_.variants.front().name;
    std::vector<std::string_view> names;
    for (const WrittenVariant& variant : file_.variants) names.push_back(variant.name);
    if (reference_)
      WN_REQUIRE(find(file_.reference), "{}: there is no such variant; {}", reference_->subject,
                 spelling_hint(file_.reference, names));
    for (const WrittenVariant& variant : file_.variants)
      for (const Setting& setting : variant.settings) {
        WN_REQUIRE(file_.match == Match::none || setting.key->path != "model.ffn.hidden" ||
                       variant.name == file_.reference,
                   "{}: `match:` decides this width; remove it, or write match: none", setting.value.subject);
        for (const Setting& chosen : from_command_line_)
          WN_REQUIRE(chosen.key != setting.key, "{}: variant {} sets this key itself; change {} instead",
                     chosen.value.subject, variant.name, place_);
      }
  }

  const Choices& choices_;
  std::string place_;
  PlanFile file_;
  std::optional<WrittenValue> reference_;
  std::vector<Setting> from_command_line_;
};

}  // namespace

PlanFile read_plan_file(const std::filesystem::path& path, const Choices& choices) {
  return Reader(path, choices).read();
}

}  // namespace wuneng::trainer::ablate
