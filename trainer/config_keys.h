// Every key of the configuration: its name, its place in Config, what it may hold, and one line of help.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string_view>
#include <variant>
#include <vector>

#include "trainer/config.h"

namespace wuneng::trainer {

// A field of Config, reached through one generic lambda that serves reading and writing.
template <class T>
struct Field {
  template <class Access>
  Field(Access access) : read(access), write(access) {}

  const T& (*read)(const Config&);
  T& (*write)(Config&);
};

struct IntegerKind {
  Field<std::int64_t> field;
  std::int64_t min = 0;
  std::int64_t max = std::numeric_limits<std::int64_t>::max();
  bool automatic = false;                  // 0 stands for a formula: written and printed as the word `auto`
  std::vector<std::int64_t> choices = {};  // where not empty: the only values allowed
};

struct RealKind {
  Field<double> field;
  double min = 0.0;
  bool above_min = false;  // min itself is refused
  double below = std::numeric_limits<double>::infinity();
};

struct FlagKind {
  Field<bool> field;
};

struct TextKind {
  Field<std::string> field;
};

struct ChoiceKind {
  std::vector<std::string_view> names;
  std::function<std::size_t(const Config&)> read;  // index into names
  std::function<void(Config&, std::size_t)> write;
};

// May a run that is resumed change the key? Only where its results cannot depend on it, or are asked for
// anew.
enum class Resume { shared, free };

struct Key {
  std::string_view path;  // "model.attention.heads"
  std::variant<IntegerKind, RealKind, FlagKind, TextKind, ChoiceKind> kind;
  std::string_view unit;  // "tokens"; empty: a plain number or a word
  std::string_view help;
  Resume resume = Resume::shared;
};

// The table; keys of one section stand together.
const std::vector<Key>& config_keys();

const Key* find_key(std::string_view path);  // nullptr: no such key
bool is_section(std::string_view path);

// Sections and keys directly below `section` ("" is the top), in the order of the table.
std::vector<std::string_view> names_in(std::string_view section);

// "model.attention.heads" -> "model.attention" and "heads"; the section of a top-level key is "".
std::string_view section_of(std::string_view path);
std::string_view last_part(std::string_view path);

}  // namespace wuneng::trainer
