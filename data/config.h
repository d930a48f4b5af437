#pragma once

#include <cstdint>
#include <string>

namespace wuneng::data {

struct DataConfig {
  std::string train;                   // prefix of the training corpus: PREFIX.bin and PREFIX.idx
  std::string validation;              // prefix of the validation corpus; empty: no validation
  std::int64_t sequence_length = 256;  // tokens
  bool separate_documents = true;      // attention and states never cross the start of a document
};

}  // namespace wuneng::data
