// .pth files of PyTorch: zips of a pickled dictionary and the bytes of its tensors.
#pragma once

#include <filesystem>

#include "trainer/formats/stored_tensors.h"

namespace wuneng::trainer {

// What torch.save({name: tensor}) writes.
void write_pth(const std::filesystem::path& file, const NamedTensors& tensors);

// What torch.save() wrote for a dict or OrderedDict of tensors; their numbers stay in the mapped file. Throws
// UsageError that names file and tensor when the file is cut, damaged, or holds anything else.
StoredTensors read_pth(const std::filesystem::path& file);

}  // namespace wuneng::trainer
