#include "trainer/formats/stored_tensors.h"

#include "common/check.h"

namespace wuneng::trainer {

StoredTensors stored_tensors(const std::shared_ptr<const SafetensorsFile>& file) {
  StoredTensors tensors;
  for (const auto& [name, entry] : file->entries())
    tensors[name] = {entry.dtype, entry.shape, [file, name] { return file->read(name); }};
  return tensors;
}

std::string describe(const StoredTensor& tensor) {
  return fmt::format("{} [{}]", c10::toString(tensor.dtype), fmt::join(tensor.shape, ", "));
}

}  // namespace wuneng::trainer
