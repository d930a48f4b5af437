#include "trainer/config_value.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

constexpr std::int64_t no_limit = std::numeric_limits<std::int64_t>::max();

// What a number in another notation (1e3, 1_000, 0x10, 010, 5.0, +5) was probably meant to be; empty when it
// is no number.
std::optional<double> loosely_read(std::string text) {
  std::erase(text, '_');
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !std::isfinite(value)) return std::nullopt;
  return value;
}

bool has_leading_zero(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  return text.size() > 1 && text[0] == '0' && text[1] >= '0' && text[1] <= '9';
}

std::string real_text(double value) {
  std::string text = fmt::format("{}", value);
  // YAML 1.1 readers take 1e-05 for a word: they ask for a point before the exponent.
  if (text.find('.') == std::string::npos) text.insert(std::min(text.find('e'), text.size()), ".0");
  return text;
}

std::string integer_text(const IntegerKind& kind, std::int64_t value) {
  return kind.automatic && value == 0 ? "auto" : fmt::format("{}", value);
}

std::string remedy_for_integer(const WrittenValue& written, const IntegerKind& kind) {
  const auto meant = loosely_read(written.text);
  if (meant && std::floor(*meant) == *meant && std::abs(*meant) < 0x1p53) {
    return fmt::format(": write {}{}", static_cast<std::int64_t>(*meant),
                       written.quoted ? " without quotes" : "");
  }
  const std::int64_t usual = kind.field.read(Config{});
  return fmt::format(", such as {}", usual > 0 ? usual : std::max<std::int64_t>(kind.min, 1));
}

std::int64_t parse_integer(const IntegerKind& kind, const WrittenValue& written) {
  const std::string_view text = written.text;
  if (kind.automatic && text == "auto") return 0;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole =
      end == text.data() + text.size() && !text.empty() && !has_leading_zero(text) && !written.quoted;
  WN_REQUIRE(whole && error != std::errc::invalid_argument, "{}: must be {}an integer{}", written.subject,
             kind.automatic ? "auto or " : "", remedy_for_integer(written, kind));
  if (error == std::errc::result_out_of_range) {
    return text.starts_with('-') ? std::numeric_limits<std::int64_t>::min() : no_limit;
  }
  return value;
}

void set(const IntegerKind& kind, const WrittenValue& written, Config& config) {
  const std::int64_t value = parse_integer(kind, written);
  if (!kind.choices.empty()) {
    WN_REQUIRE(std::ranges::find(kind.choices, value) != kind.choices.end(), "{}: must be one of: {}",
               written.subject, fmt::join(kind.choices, ", "));
  } else if (!(kind.automatic && value == 0)) {
    WN_REQUIRE(value >= kind.min, "{}: must be {}at least {}", written.subject,
               kind.automatic ? "auto or " : "", kind.min);
    WN_REQUIRE(value <= kind.max, "{}: must be at most {}", written.subject, kind.max);
  }
  kind.field.write(config) = value;
}

std::string remedy_for_real(const WrittenValue& written, const RealKind& kind) {
  const auto meant = loosely_read(written.text);
  if (meant) return fmt::format(": write {}{}", real_text(*meant), written.quoted ? " without quotes" : "");
  return ", such as " + real_text(kind.field.read(Config{}));
}

double parse_real(const RealKind& kind, const WrittenValue& written) {
  const std::string_view text = written.text;
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool whole =
      end == text.data() + text.size() && !text.empty() && !has_leading_zero(text) && !written.quoted;
  WN_REQUIRE(whole && error != std::errc::invalid_argument && std::isfinite(value),
             "{}: must be a finite number{}", written.subject, remedy_for_real(written, kind));
  WN_REQUIRE(error != std::errc::result_out_of_range, "{}: is too large or too small for a 64-bit float",
             written.subject);
  return value + 0.0;  // turns -0 into 0: equal values must have equal texts
}

void set(const RealKind& kind, const WrittenValue& written, Config& config) {
  const double value = parse_real(kind, written);
  WN_REQUIRE(kind.above_min ? value > kind.min : value >= kind.min, "{}: must be {} {}", written.subject,
             kind.above_min ? "greater than" : "at least", kind.min);
  WN_REQUIRE(value < kind.below, "{}: must be less than {}", written.subject, kind.below);
  kind.field.write(config) = value;
}

void set(const FlagKind& kind, const WrittenValue& written, Config& config) {
  const bool valid = !written.quoted && (written.text == "true" || written.text == "false");
  WN_REQUIRE(valid, "{}: must be true or false (not yes, no, on, off, 1, 0, capitals or in quotes)",
             written.subject);
  kind.field.write(config) = written.text == "true";
}

void set(const TextKind& kind, const WrittenValue& written, Config& config) {
  try {
    static_cast<void>(nlohmann::json(written.text).dump());
  } catch (const nlohmann::json::type_error&) {
    throw UsageError(fmt::format("{}: is not valid UTF-8; use a name that is", written.subject));
  }
  kind.field.write(config) = written.text;
}

void set(const ChoiceKind& kind, const WrittenValue& written, Config& config) {
  const auto found = std::ranges::find(kind.names, written.text);
  WN_REQUIRE(found != kind.names.end(), "{}: must be one of: {}", written.subject,
             fmt::join(kind.names, ", "));
  kind.write(config, static_cast<std::size_t>(found - kind.names.begin()));
}

std::string text_of(const IntegerKind& kind, const Config& config) {
  return integer_text(kind, kind.field.read(config));
}
std::string text_of(const RealKind& kind, const Config& config) { return real_text(kind.field.read(config)); }
std::string text_of(const FlagKind& kind, const Config& config) {
  return kind.field.read(config) ? "true" : "false";
}
std::string text_of(const TextKind& kind, const Config& config) {
  return nlohmann::json(kind.field.read(config)).dump();  // a JSON string is a double-quoted YAML scalar
}
std::string text_of(const ChoiceKind& kind, const Config& config) {
  return std::string(kind.names[kind.read(config)]);
}

std::string allowed(const IntegerKind& kind) {
  if (!kind.choices.empty()) return fmt::format("{}", fmt::join(kind.choices, " | "));
  if (kind.min == kind.max) return fmt::format("{}", kind.min);
  const std::string range =
      kind.max == no_limit ? fmt::format(">= {}", kind.min) : fmt::format("{}..{}", kind.min, kind.max);
  return (kind.automatic ? "auto | int " : "int ") + range;
}
std::string allowed(const RealKind& kind) {
  if (std::isfinite(kind.below)) return fmt::format("float in [{}, {})", kind.min, kind.below);
  return fmt::format("float {} {}", kind.above_min ? ">" : ">=", kind.min);
}
std::string allowed(const FlagKind&) { return "true | false"; }
std::string allowed(const TextKind&) { return "text"; }
std::string allowed(const ChoiceKind& kind) { return fmt::format("{}", fmt::join(kind.names, " | ")); }

}  // namespace

void set_value(const Key& key, const WrittenValue& value, Config& config) {
  std::visit([&](const auto& kind) { set(kind, value, config); }, key.kind);
}

std::string value_text(const Key& key, const Config& config) {
  return std::visit([&](const auto& kind) { return text_of(kind, config); }, key.kind);
}

std::string allowed_text(const Key& key) {
  return std::visit([](const auto& kind) { return allowed(kind); }, key.kind);
}

}  // namespace wuneng::trainer
