// The value of one key as text: checked on the way in, exact on the way out.
#pragma once

#include <string>

#include "trainer/config_keys.h"

namespace wuneng::trainer {

// A value as somebody wrote it.
struct WrittenValue {
  std::string text;
  bool quoted = false;  // only texts and choices may be
  std::string subject;  // opens every error: "configs/x.yaml:7: trainer.steps = -5"
};

// Puts the value into its field. Throws UsageError when it is of the wrong type or outside of the key's range
// or choices.
void set_value(const Key& key, const WrittenValue& value, Config& config);

// The field as set_value() reads it and as YAML holds it: texts in double quotes, numbers to the last bit.
std::string value_text(const Key& key, const Config& config);

// What the key may hold, in a few words: "int >= 1", "auto | int >= 1", "float > 0", "rms | layer".
std::string allowed_text(const Key& key);

}  // namespace wuneng::trainer
