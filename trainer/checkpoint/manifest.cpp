#include "trainer/checkpoint/manifest.h"

#include <torch/headeronly/version.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "common/check.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/version.h"

namespace wuneng::trainer {
namespace {

constexpr const char* format_name = "wuneng-checkpoint";
constexpr std::int64_t format_version = 2;

// What closes the manifest after `body`.
std::string seal(std::string_view body) {
  return fmt::format(",\n \"manifest_hash\": \"{}\"\n}}\n", hex(hash_text(body)));
}

Json to_json(const TensorSlice& slice) {
  return {{"file", slice.file},
          {"offset", slice.offset},
          {"begin", slice.box.begin},
          {"shape", slice.box.shape},
          {"xxh3", hex(slice.hash)}};
}

Json to_json(const SavedTensor& tensor) {
  Json slices = Json::array();
  for (const TensorSlice& slice : tensor.slices) slices.push_back(to_json(slice));
  return {{"section", tensor.section},
          {"name", tensor.name},
          {"dtype", dtype_name(tensor.dtype).value()},
          {"shape", tensor.shape},
          {"slices", slices}};
}

Json to_json(const FileRecord& file) {
  return {{"bytes", file.bytes}, {"head_bytes", file.head_bytes}, {"head_xxh3", hex(file.head_hash)}};
}

std::uint64_t hash_from(const Json& digits) {
  const auto text = digits.get<std::string>();
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  WN_REQUIRE(error == std::errc() && end == text.data() + text.size(), "'{}' is not a hash", text);
  return value;
}

bool is_inside(const Box& box, const std::vector<std::int64_t>& shape) {
  if (box.begin.size() != shape.size() || box.shape.size() != shape.size()) return false;
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (box.begin[d] < 0 || box.shape[d] < 0 || box.begin[d] > shape[d] ||
        box.shape[d] > shape[d] - box.begin[d])
      return false;
  return true;
}

// Throws unless the slices lie inside of the tensor and do not overlap. In order of their first index, most
// pairs need no look.
void check_slices(const SavedTensor& tensor) {
  std::vector<const Box*> boxes;
  for (const TensorSlice& slice : tensor.slices) {
    WN_REQUIRE(is_inside(slice.box, tensor.shape), "tensor {}: a slice in {} reaches out of the tensor",
               tensor.name, slice.file);
    boxes.push_back(&slice.box);
  }
  if (tensor.shape.empty()) {
    WN_REQUIRE(boxes.size() <= 1, "tensor {}: slices overlap: it has one element", tensor.name);
    return;
  }
  std::ranges::sort(boxes, {}, [](const Box* box) { return box->begin[0]; });
  for (std::size_t i = 0; i < boxes.size(); ++i)
    for (std::size_t j = i + 1;
         j < boxes.size() && boxes[j]->begin[0] < boxes[i]->begin[0] + boxes[i]->shape[0]; ++j)
      WN_REQUIRE(intersection(*boxes[i], *boxes[j]).numel() == 0, "tensor {}: the slices {} and {} overlap",
                 tensor.name, entry_name("", tensor.shape, *boxes[i]),
                 entry_name("", tensor.shape, *boxes[j]));
}

// The number as it is written: -1, 2.5 or 1e30 would be read as another.
std::int64_t whole(const Json& value, std::string_view what) {
  WN_REQUIRE(
      value.is_number_unsigned() && value.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max(),
      "{} {}: is not a whole number from 0 to 2^63 - 1", what, value.dump());
  return value.get<std::int64_t>();
}

std::vector<std::int64_t> sizes(const Json& values, std::string_view what) {
  WN_REQUIRE(values.is_array(), "{} {}: is not an array", what, values.dump());
  std::vector<std::int64_t> result;
  for (const Json& value : values) result.push_back(whole(value, what));
  return result;
}

SavedTensor tensor_from(const Json& json) {
  SavedTensor tensor;
  tensor.section = json.at("section").get<std::string>();
  tensor.name = json.at("name").get<std::string>();
  const auto dtype = dtype_named(json.at("dtype").get<std::string>());
  WN_REQUIRE(dtype.has_value(), "tensor {}: dtype {} is not known", tensor.name, json.at("dtype").dump());
  tensor.dtype = *dtype;
  tensor.shape = sizes(json.at("shape"), "shape");
  const auto bytes = byte_count(*dtype, tensor.shape);
  WN_REQUIRE(bytes.has_value(), "tensor {}: shape {} is absurd", tensor.name, json.at("shape").dump());
  tensor.bytes = *bytes;
  for (const Json& slice : json.at("slices"))
    tensor.slices.push_back({slice.at("file").get<std::string>(),
                             static_cast<std::uint64_t>(whole(slice.at("offset"), "offset")),
                             {sizes(slice.at("begin"), "begin"), sizes(slice.at("shape"), "shape")},
                             hash_from(slice.at("xxh3"))});
  check_slices(tensor);
  return tensor;
}

// A name of a file in the checkpoint's own folder.
void check_file_name(const std::string& name) {
  WN_REQUIRE(!name.empty() && name.find('/') == std::string::npos && name != "." && name != "..",
             "file '{}': a file of a checkpoint lies in its folder", name);
}

Manifest from_json(const Json& json) {
  WN_REQUIRE(json.at("format").get<std::string>() == format_name, "format {}: is not {}",
             json.at("format").dump(), format_name);
  const auto version = whole(json.at("format_version"), "format_version");
  WN_REQUIRE(version == format_version,
             "format_version {}: this program reads version {}; use the program that wrote it", version,
             format_version);
  Manifest manifest;
  const Json& position = json.at("position");
  manifest.info.position = {whole(position.at("step"), "step"), whole(position.at("samples"), "samples"),
                            whole(position.at("tokens"), "tokens")};
  manifest.info.config = json.at("config").get<std::string>();
  manifest.info.data_hash = hash_from(json.at("data_hash"));
  if (const Json& loss = json.at("validation_loss"); !loss.is_null())
    manifest.info.validation_loss = loss.get<double>();
  manifest.info.facts = json.at("facts").dump();
  for (const auto& [name, file] : json.at("files").items()) {
    check_file_name(name);
    manifest.files[name] = {static_cast<std::uint64_t>(whole(file.at("bytes"), "bytes")),
                            static_cast<std::uint64_t>(whole(file.at("head_bytes"), "head_bytes")),
                            hash_from(file.at("head_xxh3"))};
  }
  for (const Json& tensor : json.at("tensors")) manifest.tensors.push_back(tensor_from(tensor));
  return manifest;
}

}  // namespace

void Manifest::add(Manifest other) {
  files.merge(other.files);
  WN_CHECK(other.files.empty() && other.tensors.size() == tensors.size(),
           "checkpoint: ranks wrote files of one name or other tensors");
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    SavedTensor& ours = tensors[i];
    const SavedTensor& theirs = other.tensors[i];
    WN_CHECK(ours.section == theirs.section && ours.name == theirs.name && ours.shape == theirs.shape,
             "checkpoint: tensor {} of one rank is {} of another", ours.name, theirs.name);
    ours.slices.insert(ours.slices.end(), theirs.slices.begin(), theirs.slices.end());
  }
}

// Slices that lie inside of the tensor, do not overlap and have its size together leave no gap.
void check_tiling(const Manifest& manifest) {
  for (const SavedTensor& tensor : manifest.tensors) {
    check_slices(tensor);
    std::uint64_t bytes = 0;
    for (const TensorSlice& slice : tensor.slices) bytes += byte_count(tensor.dtype, slice.box.shape).value();
    WN_REQUIRE(!tensor.slices.empty() && bytes == tensor.bytes,
               "tensor {}: its slices leave a gap: {} of {} bytes are stored", tensor.name, bytes,
               tensor.bytes);
  }
}

std::string manifest_text(const Manifest& manifest) {
  const CheckpointInfo& info = manifest.info;
  const Position& position = info.position;
  const Version& program = version();
  const Json head{
      {"format", format_name},
      {"format_version", format_version},
      {"position", {{"step", position.step}, {"samples", position.samples}, {"tokens", position.tokens}}},
      {"validation_loss", info.validation_loss ? Json(*info.validation_loss) : Json()},
      {"data_hash", hex(info.data_hash)},
      {"config", info.config},
      {"facts", Json::parse(info.facts)},
      {"versions",
       {{"wuneng", program.version},
        {"git_commit", program.git_commit},
        {"build_type", program.build_type},
        {"compiler", program.compiler},
        {"cuda", program.cuda},
        {"libtorch", TORCH_VERSION}}}};
  std::vector<std::string> files, tensors;  // one a line
  for (const auto& [name, file] : manifest.files)
    files.push_back(fmt::format("{}: {}", Json(name).dump(), to_json(file).dump()));
  for (const SavedTensor& tensor : manifest.tensors) tensors.push_back(to_json(tensor).dump());
  std::string text = head.dump(1);
  text.resize(text.size() - 2);  // the closing "\n}", which the seal brings
  text += fmt::format(",\n \"files\": {{\n  {}\n }},\n \"tensors\": [\n  {}\n ]", fmt::join(files, ",\n  "),
                      fmt::join(tensors, ",\n  "));
  return text + seal(text);
}

Manifest parse_manifest(std::string_view text, const std::string& place, Extent extent) {
  const std::size_t seal_bytes = seal({}).size();
  const std::string_view body = text.substr(0, text.size() - std::min(seal_bytes, text.size()));
  WN_REQUIRE(text.substr(body.size()) == seal(body), "{}: was cut or changed (manifest_hash does not fit)",
             place);
  const Json json = parse_json(text, place);
  try {
    Manifest manifest = from_json(json);
    if (extent == Extent::all) check_tiling(manifest);
    return manifest;
  } catch (const Json::exception& error) {
    throw UsageError(fmt::format("{}: {}", place, error.what()));
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", place, error.what()));
  }
}

}  // namespace wuneng::trainer
