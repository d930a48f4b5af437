#include "trainer/manifest.h"

#include <torch/headeronly/version.h>

#include <algorithm>
#include <charconv>
#include <nlohmann/json.hpp>
#include <set>

#include "common/check.h"
#include "common/hash.h"
#include "common/json.h"
#include "common/version.h"

namespace wuneng::trainer {
namespace {

constexpr const char* format_name = "wuneng-checkpoint";
constexpr std::int64_t format_version = 1;

// What closes the manifest after `body`.
std::string seal(std::string_view body) {
  return fmt::format(",\n \"manifest_hash\": \"{}\"\n}}\n", hex(hash_text(body)));
}

Json to_json(const TensorSlice& slice) {
  return {{"file", slice.file},
          {"offset", slice.offset},
          {"begin", slice.begin},
          {"shape", slice.shape},
          {"xxh3", hex(slice.hash)}};
}

Json to_json(const Checkpoint::Row& row) {
  Json slices = Json::array();
  for (const TensorSlice& slice : row.slices) slices.push_back(to_json(slice));
  return {{"part", row.part},
          {"name", row.name},
          {"dtype", dtype_name(row.entry.dtype).value()},
          {"shape", row.entry.shape},
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

bool inside(const TensorSlice& slice, const std::vector<std::int64_t>& shape) {
  for (std::size_t d = 0; d < shape.size(); ++d)
    if (slice.begin[d] < 0 || slice.shape[d] < 0 || slice.begin[d] > shape[d] ||
        slice.shape[d] > shape[d] - slice.begin[d])
      return false;
  return true;
}

bool overlap(const TensorSlice& a, const TensorSlice& b) {
  for (std::size_t d = 0; d < a.begin.size(); ++d)
    if (a.begin[d] + a.shape[d] <= b.begin[d] || b.begin[d] + b.shape[d] <= a.begin[d]) return false;
  return true;
}

// Slices that lie inside of the tensor, do not overlap and have its size together leave no gap.
void check_tiling(const Checkpoint::Row& row) {
  std::uint64_t bytes = 0;
  std::set<std::string> files;
  for (std::size_t i = 0; i < row.slices.size(); ++i) {
    const TensorSlice& slice = row.slices[i];
    WN_REQUIRE(slice.begin.size() == row.entry.shape.size() && slice.shape.size() == row.entry.shape.size() &&
                   inside(slice, row.entry.shape),
               "tensor {}: slice {} reaches out of the tensor", row.name, i);
    WN_REQUIRE(files.insert(slice.file).second, "tensor {}: {} holds two of its slices", row.name,
               slice.file);
    for (std::size_t j = 0; j < i; ++j)
      WN_REQUIRE(!overlap(slice, row.slices[j]), "tensor {}: slices {} and {} overlap", row.name, j, i);
    bytes += byte_count(row.entry.dtype, slice.shape).value();
  }
  WN_REQUIRE(!row.slices.empty() && bytes == row.entry.bytes,
             "tensor {}: its slices leave a gap: {} of {} bytes are stored", row.name, bytes,
             row.entry.bytes);
}

std::uint64_t hash_of(const std::vector<TensorSlice>& slices) {
  if (slices.size() == 1) return slices[0].hash;
  std::string hashes;
  for (const TensorSlice& slice : slices) hashes += hex(slice.hash);
  return hash_text(hashes);
}

Checkpoint::Row row_from(const Json& json) {
  using Sizes = std::vector<std::int64_t>;
  Checkpoint::Row row;
  row.part = json.at("part").get<std::string>();
  row.name = json.at("name").get<std::string>();
  const auto dtype = dtype_named(json.at("dtype").get<std::string>());
  WN_REQUIRE(dtype.has_value(), "tensor {}: dtype {} is not known", row.name, json.at("dtype").dump());
  row.entry.dtype = *dtype;
  row.entry.shape = json.at("shape").get<Sizes>();
  const auto bytes = byte_count(*dtype, row.entry.shape);
  WN_REQUIRE(bytes.has_value(), "tensor {}: shape {} is absurd", row.name, json.at("shape").dump());
  row.entry.bytes = *bytes;
  for (const Json& slice : json.at("slices"))
    row.slices.push_back({slice.at("file").get<std::string>(), slice.at("offset").get<std::uint64_t>(),
                          slice.at("begin").get<Sizes>(), slice.at("shape").get<Sizes>(),
                          hash_from(slice.at("xxh3"))});
  check_tiling(row);
  row.entry.offset = row.slices[0].offset;
  row.hash = hash_of(row.slices);
  return row;
}

Manifest from_json(const Json& json) {
  WN_REQUIRE(json.at("format").get<std::string>() == format_name, "format {}: is not {}",
             json.at("format").dump(), format_name);
  const auto version = json.at("format_version").get<std::int64_t>();
  WN_REQUIRE(version == format_version,
             "format_version {}: this program reads version {}; use the program that wrote it", version,
             format_version);
  Manifest manifest;
  const Json& position = json.at("position");
  manifest.info.position = {position.at("step").get<std::int64_t>(),
                            position.at("samples").get<std::int64_t>(),
                            position.at("tokens").get<std::int64_t>()};
  manifest.info.config = json.at("config").get<std::string>();
  manifest.info.data_hash = hash_from(json.at("data_hash"));
  for (const auto& [name, file] : json.at("files").items())
    manifest.files[name] = {file.at("bytes").get<std::uint64_t>(), file.at("head_bytes").get<std::uint64_t>(),
                            hash_from(file.at("head_xxh3"))};
  for (const Json& row : json.at("tensors")) manifest.tensors.push_back(row_from(row));
  return manifest;
}

}  // namespace

std::string manifest_text(const Manifest& manifest) {
  const Position& position = manifest.info.position;
  const Version& program = version();
  Json files = Json::object(), tensors = Json::array();
  for (const auto& [name, file] : manifest.files) files[name] = to_json(file);
  for (const Checkpoint::Row& row : manifest.tensors) tensors.push_back(to_json(row));
  const Json json{
      {"format", format_name},
      {"format_version", format_version},
      {"position", {{"step", position.step}, {"samples", position.samples}, {"tokens", position.tokens}}},
      {"config", manifest.info.config},
      {"data_hash", hex(manifest.info.data_hash)},
      {"versions",
       {{"wuneng", program.version},
        {"git_commit", program.git_commit},
        {"build_type", program.build_type},
        {"compiler", program.compiler},
        {"cuda", program.cuda},
        {"libtorch", TORCH_VERSION}}},
      {"files", files},
      {"tensors", tensors}};
  std::string text = json.dump(1);
  text.resize(text.size() - 2);  // the closing "\n}", which the seal brings
  return text + seal(text);
}

Manifest parse_manifest(std::string_view text, const std::filesystem::path& path) {
  const std::size_t seal_bytes = seal({}).size();
  const std::string_view body = text.substr(0, text.size() - std::min(seal_bytes, text.size()));
  WN_REQUIRE(text.substr(body.size()) == seal(body), "{}: was cut or changed (manifest_hash does not fit)",
             path.string());
  const Json json = parse_json(text, path.string());
  try {
    return from_json(json);
  } catch (const Json::exception& error) {
    throw UsageError(fmt::format("{}: {}", path.string(), error.what()));
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("{}: {}", path.string(), error.what()));
  }
}

}  // namespace wuneng::trainer
