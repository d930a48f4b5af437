// libFuzzer on the readers of checkpoints: whatever the bytes, they are read, or refused with a UsageError,
// without a crash and without a large allocation. What is accepted must be consistent.
//
// The first byte of an input chooses the reader:
//   0  the rest is a safetensors file
//   1  the rest is a manifest without its seal, which is put under it: a broken one is refused at once
//   2  the rest is the manifest of a valid checkpoint's folder, sealed
//   3  the rest is model.safetensors in that folder, and the manifest has its size and hash
// There are no files of seeds: the mutator begins with valid inputs and changes the JSON in them by its
// structure as often as it changes bytes.
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <fmt/format.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>

#include "common/hash.h"
#include "tests/support/scratch.h"
#include "trainer/checkpoint/checkpoint.h"
#include "trainer/checkpoint/folder.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t most);
// LibTorch is not instrumented: its vectors look as if they had been overrun.
extern "C" const char* __asan_default_options() { return "detect_container_overflow=0:detect_leaks=0"; }

namespace {

using namespace wuneng;
using namespace wuneng::trainer;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "accepted, but inconsistent: %s\n", what);
  std::abort();
}

std::string sealed(std::string body) {
  const std::string hash = hex(hash_text(body));
  return body + fmt::format(",\n \"manifest_hash\": \"{}\"\n}}\n", hash);
}

void put(const std::filesystem::path& file, std::string_view text) { OutputFile(file).write(text); }

// A checkpoint of two ranks with tensors of several dtypes, one of them cut into boxes.
class Valid {
 public:
  Valid() {
    const at::Tensor matrix = at::arange(24, at::kFloat).view({4, 6});
    const auto cut = [&](std::int64_t row, std::int64_t rows) {
      return Piece{{row, 0}, matrix.narrow(0, row, rows)};
    };
    const at::Tensor flag = at::full({3}, 1, at::kBool), scale = at::full({}, 0.5, at::kBFloat16);
    Shard first{{"model", "matrix", {4, 6}, at::kFloat, {cut(0, 1), cut(1, 2)}},
                {"model", "flag", {3}, at::kBool, {{{0}, flag}}},
                {"optimizer", "scale", {}, at::kBFloat16, {}},
                {"optimizer", "none", {0, 3}, at::kFloat, {}}};
    Shard second = first;
    second[0].pieces = {cut(3, 1)};
    second[1].pieces.clear();
    second[2].pieces = {{{}, scale}};
    second[3].pieces = {{{0, 0}, at::full({0, 3}, 0.0, at::kFloat)}};
    prepare_checkpoint(folder());
    Manifest manifest = write_shard(folder(), first, 0, 2);
    manifest.add(write_shard(folder(), second, 1, 2));
    manifest.info.config = "seed: 1\n";
    finish_checkpoint(folder(), manifest);
    manifest_ = parse_manifest(read_text(folder() / manifest_name), "valid");
    model_ = read_text(folder() / model_file);
  }

  static constexpr const char* model_file = "model-rank-00000.safetensors";
  std::filesystem::path folder() const { return scratch_.path() / "step-00000001"; }
  std::filesystem::path file() const { return scratch_.path() / "tensors.safetensors"; }
  const std::string& model() const { return model_; }
  const Manifest& manifest() const { return manifest_; }
  std::string manifest_body() const {
    const std::string text = manifest_text(manifest_);
    return text.substr(0, text.rfind(",\n \"manifest_hash\""));
  }

 private:
  tests::Scratch scratch_;
  Manifest manifest_;
  std::string model_;
};

Valid& valid() {
  static Valid checkpoint;
  return checkpoint;
}

// ---- the readers ----

void read_file(std::string_view bytes) {
  put(valid().file(), bytes);
  const SafetensorsFile file(valid().file());
  std::uint64_t total = 0;
  for (const auto& [name, entry] : file.entries()) {
    total += entry.bytes;
    require(entry.offset + entry.bytes <= bytes.size(), "a tensor reaches out of the file");
    const at::Tensor tensor = file.read(name);
    require(tensor.nbytes() == entry.bytes && tensor.sizes() == entry.shape, "a tensor of another size");
    require(entry.bytes == 0 ||
                std::memcmp(tensor.const_data_ptr(), bytes.data() + entry.offset, entry.bytes) == 0,
            "a tensor of other bytes");
  }
  require(total < bytes.size(), "more data than the file has");
}

// Every element of every tensor must lie in one slice; by counting, for small tensors.
void check_by_counting(const SavedTensor& tensor) {
  std::int64_t elements = 1;
  for (const std::int64_t size : tensor.shape)
    if (__builtin_mul_overflow(elements, size, &elements)) return;
  if (elements > 4096) return;
  const at::Tensor counts = at::full(tensor.shape, 0, at::kInt);
  const Box whole{std::vector<std::int64_t>(tensor.shape.size(), 0), tensor.shape};
  for (const TensorSlice& slice : tensor.slices) view_of(counts, whole, slice.box).add_(1);
  require(counts.eq(1).all().item<bool>(), "slices that do not tile their tensor");
}

void parse(std::string_view body) {
  const Manifest manifest = parse_manifest(sealed(std::string(body)), "fuzzed");
  for (const SavedTensor& tensor : manifest.tensors) check_by_counting(tensor);
}

void open_folder() {
  const Checkpoint checkpoint(valid().folder());
  checkpoint.verify();
  for (const SavedTensor& tensor : checkpoint.tensors()) {
    check_by_counting(tensor);
    checkpoint.read(tensor);
  }
}

void open_with_manifest(std::string_view body) {
  put(valid().folder() / Valid::model_file, valid().model());
  put(valid().folder() / manifest_name, sealed(std::string(body)));
  open_folder();
}

void open_with_model(std::string_view bytes) {
  Manifest manifest = valid().manifest();
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), std::min(sizeof header, bytes.size()));
  const std::uint64_t head = header < bytes.size() ? std::min(header + 8, bytes.size()) : bytes.size();
  manifest.files[Valid::model_file] = {bytes.size(), head, hash_bytes(bytes.data(), head)};
  put(valid().folder() / Valid::model_file, bytes);
  put(valid().folder() / manifest_name, manifest_text(manifest));
  open_folder();
}

// ---- the mutator ----

using Random = std::minstd_rand;

// All values of a document.
void collect(Json& value, std::vector<Json*>& all) {
  all.push_back(&value);
  if (value.is_structured())
    for (Json& item : value) collect(item, all);
}

Json strange_number(const Json& value, Random& random) {
  const std::uint64_t v = value.is_number_integer() ? value.get<std::uint64_t>() : 7;
  const Json choices[] = {0,
                          1,
                          -1,
                          v + 1,
                          v - 1,
                          v * 2,
                          v / 2,
                          std::numeric_limits<std::int64_t>::max(),
                          std::numeric_limits<std::int64_t>::min(),
                          std::numeric_limits<std::uint64_t>::max(),
                          std::uint64_t{1} << random() % 64,
                          0.5};
  return choices[random() % std::size(choices)];
}

void change(Json& document, Random& random) {
  std::vector<Json*> all;
  collect(document, all);
  Json& value = *all[random() % all.size()];
  const Json other = *all[random() % all.size()];
  switch (random() % 6) {
    case 0:  // of another place
      value = other;
      return;
    case 1:  // one less
      if (value.is_structured() && !value.empty()) {
        auto item = value.begin();
        std::advance(item, random() % value.size());
        value.erase(item);
      }
      return;
    case 2:  // one more
      if (value.is_array()) value.push_back(value.empty() ? Json(1) : Json(value[random() % value.size()]));
      if (value.is_object()) value["more"] = other;
      return;
    default:
      if (value.is_number()) value = strange_number(value, random);
      if (value.is_string()) value = value.get<std::string>() + (random() % 2 ? "0" : "/");
  }
}

// Changes JSON by its structure; false where it is none.
bool change_json(std::string& text, Random& random) {
  Json document = Json::parse(text, nullptr, false);
  if (document.is_discarded()) return false;
  for (unsigned n = 1 + random() % 3; n > 0; --n) change(document, random);
  text = document.dump(-1, ' ', false, Json::error_handler_t::replace);
  return true;
}

bool change_body(std::string& body, Random& random) {
  std::string text = body + "}";
  if (!change_json(text, random) || text.back() != '}') return false;
  body = text.substr(0, text.size() - 1);
  return true;
}

bool change_header(std::string& file, Random& random) {
  std::uint64_t length = 0;
  if (file.size() < sizeof length) return false;
  std::memcpy(&length, file.data(), sizeof length);
  if (length > file.size() - sizeof length) return false;
  std::string header = file.substr(sizeof length, length);
  if (!change_json(header, random)) return false;
  const std::uint64_t changed = header.size();
  file = std::string(reinterpret_cast<const char*>(&changed), sizeof changed) + header +
         file.substr(sizeof length + length);
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  try {
    switch (data[0] % 4) {
      case 0:
        read_file(rest);
        break;
      case 1:
        parse(rest);
        break;
      case 2:
        open_with_manifest(rest);
        break;
      default:
        open_with_model(rest);
    }
  } catch (const UsageError&) {
  }
  return 0;
}

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t most,
                                               unsigned seed) {
  Random random(seed);
  std::string rest;
  std::uint8_t reader = size > 0 ? data[0] % 4 : 0;
  if (size < 2 || random() % 50 == 0) {
    reader = static_cast<std::uint8_t>(random() % 4);
    rest = reader == 1 || reader == 2 ? valid().manifest_body() : valid().model();
  } else {
    rest.assign(reinterpret_cast<const char*>(data) + 1, size - 1);
  }
  const bool is_manifest = reader == 1 || reader == 2;
  if (random() % 2 == 0 || !(is_manifest ? change_body(rest, random) : change_header(rest, random))) {
    const std::size_t before = std::min(rest.size(), most - 1);
    rest.resize(most - 1);
    rest.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(rest.data()), before, most - 1));
  }
  const std::size_t length = std::min(rest.size(), most - 1);
  data[0] = reader;
  std::memcpy(data + 1, rest.data(), length);
  return length + 1;
}
