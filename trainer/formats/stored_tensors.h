// The tensors of a file of another program, opened but not read: a model may be as large as the memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trainer/safetensors.h"

namespace wuneng::trainer {

struct StoredTensor {
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
  std::function<at::Tensor()> read;  // keeps the file open
};

using StoredTensors = std::map<std::string, StoredTensor>;

StoredTensors stored_tensors(const std::shared_ptr<const SafetensorsFile>& file);

// "Float [64, 32]".
std::string describe(const StoredTensor& tensor);

}  // namespace wuneng::trainer
