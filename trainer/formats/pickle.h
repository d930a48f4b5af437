// The pickles of torch.save(): a dictionary of tensors, whose numbers lie elsewhere in the file.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace wuneng::trainer {

// A tensor as a view of a storage, which is a record of the file. Nothing is checked against the record.
struct PickledTensor {
  std::string storage;  // its record's name
  at::ScalarType dtype;
  std::int64_t offset;  // of the first element, in elements
  std::vector<std::int64_t> shape, strides;
};

// Reads what torch.save() writes by default (protocol 2) for a dict or an OrderedDict {name: tensor}, also
// that of Module.state_dict(). Nothing in a pickle is ever run: any other class or opcode is refused, and so
// is damage, with a UsageError that names the byte. (LibTorch's Unpickler reads the pickles of TorchScript:
// no OrderedDict.)
std::map<std::string, PickledTensor> unpickle_tensors(std::string_view pickle);

}  // namespace wuneng::trainer
