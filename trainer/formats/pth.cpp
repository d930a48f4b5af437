#include "trainer/formats/pth.h"

#include <ATen/core/Dict.h>
#include <ATen/core/ivalue.h>
#include <ATen/ops/from_blob.h>
#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/pickler.h>

#include <cstring>

#include "common/check.h"
#include "common/file.h"
#include "trainer/formats/pickle.h"

namespace wuneng::trainer {
namespace {

constexpr const char* pickle_record = "data.pkl";
constexpr const char* order_record = "byteorder";

// The records of a zip that was written without compression, as views of the mapped file.
class Records {
  static constexpr std::size_t method_place = 8;  // of the compression method in a record's header

  // Errors of LibTorch become ours, without the stack that it adds.
  template <class Work>
  auto guarded(const Work& work) {
    try {
      return work();
    } catch (const c10::Error& error) {
      throw UsageError(fmt::format("{}: cannot be read as a file of torch.save(); copy or save it again: {}",
                                   file_.path().string(), error.what_without_backtrace()));
    }
  }

 public:
  explicit Records(const std::filesystem::path& path) : file_(path) {
    WN_REQUIRE(
        text(file_.bytes()).starts_with("PK"),
        "{}: is no zip, as torch.save() of PyTorch 1.6 or newer writes them; load it in Python and save "
        "it again",
        path.string());
    guarded([&] { zip_.emplace(path.string()); });
  }

  bool has(const std::string& name) {
    return guarded([&] { return zip_->hasRecord(name); });
  }

  std::span<const std::byte> bytes(const std::string& name) {
    std::size_t head = 0, begin = 0, size = 0;
    guarded([&] {
      head = zip_->getRecordHeaderOffset(name);
      begin = zip_->getRecordOffset(name);
      size = zip_->getRecordSize(name);
    });
    const std::size_t whole = file_.bytes().size();
    WN_REQUIRE(head <= whole && whole - head >= method_place + 2 && begin <= whole && size <= whole - begin,
               "{}: record {}: reaches beyond the end of the file, which was cut", file_.path().string(),
               name);
    std::uint16_t method = 0;
    std::memcpy(&method, file_.bytes().data() + head + method_place, sizeof method);
    WN_REQUIRE(method == 0,
               "{}: record {}: is compressed; load the file in Python and save it with torch.save()",
               file_.path().string(), name);
    return file_.bytes().subspan(begin, size);
  }

  static std::string_view text(std::span<const std::byte> bytes) {
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

 private:
  MappedFile file_;
  std::optional<caffe2::serialize::PyTorchStreamReader> zip_;
};

// Does the view stay inside of `bytes`?
bool inside(const PickledTensor& tensor, std::size_t bytes) {
  if (tensor.offset < 0 || !byte_count(tensor.dtype, tensor.shape)) return false;
  std::int64_t end = tensor.offset;  // of the last element
  bool empty = false;
  for (std::size_t d = 0; d < tensor.shape.size(); ++d) {
    std::int64_t reach = 0;
    if (tensor.strides[d] < 0) return false;
    empty = empty || tensor.shape[d] == 0;
    if (__builtin_mul_overflow(std::max<std::int64_t>(0, tensor.shape[d] - 1), tensor.strides[d], &reach) ||
        __builtin_add_overflow(end, reach, &end))
      return false;
  }
  const std::uint64_t elements = bytes / c10::elementSize(tensor.dtype);
  return empty || static_cast<std::uint64_t>(end) < elements;
}

// The view as a tensor, which keeps the file mapped.
at::Tensor view_of(const std::shared_ptr<Records>& records, std::span<const std::byte> bytes,
                   const PickledTensor& tensor) {
  const std::size_t width = c10::elementSize(tensor.dtype);
  const auto count = static_cast<std::int64_t>(bytes.size() / width * width);
  at::Tensor storage = at::from_blob(
      const_cast<std::byte*>(bytes.data()), {count}, [records](void*) { /* unmapped with the last view */ },
      at::kByte);
  // torch.save() aligns records; a copy where another program did not.
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % width != 0) storage = storage.clone();
  return storage.view(tensor.dtype).as_strided(tensor.shape, tensor.strides, tensor.offset);
}

}  // namespace

void write_pth(const std::filesystem::path& file, const NamedTensors& tensors) {
  c10::Dict<std::string, at::Tensor> dictionary;
  // Clones own their storage: the format stores whole storages, of which a view would be an unknown part.
  for (const auto& [name, tensor] : tensors)
    dictionary.insert(name, tensor.clone(at::MemoryFormat::Contiguous));
  std::string pickled;
  // Without the type tags of TorchScript, which torch.load() refuses by default.
  torch::jit::Pickler pickler([&](const char* bytes, std::size_t count) { pickled.append(bytes, count); },
                              nullptr, nullptr, nullptr, nullptr, /*tag_aggregates=*/false);
  pickler.protocol();
  pickler.pushIValue(dictionary);
  pickler.stop();
  OutputFile output(file);
  caffe2::serialize::PyTorchStreamWriter zip([&](const void* bytes, std::size_t count) {
    output.write(bytes, count);
    return count;
  });
  zip.writeRecord(pickle_record, pickled.data(), pickled.size());
  zip.writeRecord(order_record, "little", 6);
  const std::vector<at::Tensor>& data = pickler.tensorData();
  for (std::size_t i = 0; i < data.size(); ++i)
    zip.writeRecord(fmt::format("data/{}", i), data[i].const_data_ptr(), data[i].nbytes());
  zip.writeEndOfFile();
  output.sync_and_close();
}

StoredTensors read_pth(const std::filesystem::path& file) {
  const auto records = std::make_shared<Records>(file);
  const std::string place = file.string();
  WN_REQUIRE(!records->has(order_record) || Records::text(records->bytes(order_record)) == "little",
             "{}: was written on a big-endian machine; save it again on another", place);
  std::map<std::string, PickledTensor> pickled;
  try {
    pickled = unpickle_tensors(Records::text(records->bytes(pickle_record)));
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", place, error.what()));
  }
  StoredTensors tensors;
  for (const auto& [name, tensor] : pickled) {
    const std::span<const std::byte> bytes = records->bytes("data/" + tensor.storage);
    WN_REQUIRE(inside(tensor, bytes.size()),
               "{}: {}: reaches out of its {} stored bytes; save the file again", place, name, bytes.size());
    tensors[name] = {tensor.dtype, tensor.shape,
                     [records, bytes, tensor] { return view_of(records, bytes, tensor); }};
  }
  return tensors;
}

}  // namespace wuneng::trainer
