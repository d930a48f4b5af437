#include "trainer/safetensors.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "common/check.h"
#include "common/hash.h"

static_assert(std::endian::native == std::endian::little,
              "tensors are stored as they lie in memory: little-endian");

namespace wuneng::trainer {
namespace {

constexpr std::uint64_t length_bytes = 8;            // of the field in front of the header
constexpr std::uint64_t header_limit = 100'000'000;  // the format's own
constexpr std::size_t chunk_bytes = 256 << 10;       // are still in the cache when they are read again
constexpr const char* metadata_key = "__metadata__";

constexpr std::array<std::pair<at::ScalarType, std::string_view>, 8> dtypes{{{at::kFloat, "F32"},
                                                                             {at::kDouble, "F64"},
                                                                             {at::kBFloat16, "BF16"},
                                                                             {at::kHalf, "F16"},
                                                                             {at::kLong, "I64"},
                                                                             {at::kInt, "I32"},
                                                                             {at::kByte, "U8"},
                                                                             {at::kBool, "BOOL"}}};

std::string known_dtypes() {
  std::string names;
  for (const auto& [dtype, name] : dtypes) names.append(names.empty() ? "" : ", ").append(name);
  return names;
}

// A text in JSON's quotes.
std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }

// The header of the tensors, padded so that the data that follows is aligned; `entries` gets offsets from the
// start of the file.
std::string make_header(const NamedTensors& tensors, const std::map<std::string, std::string>& metadata,
                        const std::filesystem::path& file, std::map<std::string, TensorEntry>& entries) {
  std::string header = "{";
  if (!metadata.empty()) header += fmt::format("\"{}\":{}", metadata_key, nlohmann::json(metadata).dump());
  std::uint64_t begin = 0;
  for (const auto& [name, tensor] : tensors) {
    const auto dtype = dtype_name(tensor.scalar_type());
    WN_CHECK(dtype.has_value(), "{}: tensor {}: dtype {} cannot be stored; one of {} can", file.string(),
             name, c10::toString(tensor.scalar_type()), known_dtypes());
    WN_CHECK(tensor.is_cpu(), "{}: tensor {}: is on {}; copy it to the CPU first", file.string(), name,
             tensor.device().str());
    const TensorEntry entry{tensor.scalar_type(), tensor.sizes().vec(), begin, tensor.nbytes()};
    WN_CHECK(name != metadata_key && entries.emplace(name, entry).second, "{}: tensor {}: the name is taken",
             file.string(), name);
    header += fmt::format("{}{}:{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}",
                          header.size() > 1 ? "," : "", quoted(name), *dtype, fmt::join(entry.shape, ","),
                          begin, begin + entry.bytes);
    begin += entry.bytes;
  }
  header += "}";
  header.resize((header.size() + length_bytes - 1) / length_bytes * length_bytes, ' ');
  WN_CHECK(header.size() <= header_limit, "{}: {} tensors need a header of {} bytes; the format allows {}",
           file.string(), tensors.size(), header.size(), header_limit);
  for (auto& [name, entry] : entries) entry.offset += length_bytes + header.size();
  return header;
}

// Refuses what a JSON parser accepts in silence: a name that stands twice in one object; and nesting that no
// header needs.
class HeaderCheck final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderCheck(const std::filesystem::path& file) : file_(file) {}

  bool key(std::string& name) override {
    const bool is_new = open_.back().names.insert(name).second;
    WN_REQUIRE(is_new || open_.size() > 1, "{}: tensor {}: stands twice in the header", file_.string(), name);
    WN_REQUIRE(is_new, "{}: tensor {}: {} stands twice", file_.string(), open_[0].latest, name);
    open_.back().latest = name;
    return true;
  }
  bool start_object(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(std::int64_t) override { return true; }
  bool number_unsigned(std::uint64_t) override { return true; }
  bool number_float(double, const std::string&) override { return true; }
  bool string(std::string&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool parse_error(std::size_t, const std::string&, const nlohmann::json::exception& error) override {
    throw UsageError(fmt::format("{}: the header is not valid JSON: {}", file_.string(), error.what()));
  }

 private:
  struct Level {  // an object or a list
    std::set<std::string> names;
    std::string latest;
  };

  bool open() {
    constexpr std::size_t deepest = 3;  // header, entry, shape
    WN_REQUIRE(open_.size() < deepest, "{}: the header is nested too deeply: this is not a safetensors file",
               file_.string());
    open_.emplace_back();
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  const std::filesystem::path& file_;
  std::vector<Level> open_;  // from the outermost to the one being read
};

nlohmann::json parse_header(const std::filesystem::path& file, std::string_view text) {
  HeaderCheck check(file);
  nlohmann::json::sax_parse(text, &check);
  return nlohmann::json::parse(text);
}

struct HeaderText {
  std::string_view text;
  std::uint64_t data_begin;  // from the start of the file
};

HeaderText find_header(const MappedFile& file) {
  const std::span<const std::byte> bytes = file.bytes();
  const std::string path = file.path().string();
  WN_REQUIRE(bytes.size() >= length_bytes, "{}: has {} bytes: this is not a safetensors file, or it was cut",
             path, bytes.size());
  std::uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  WN_REQUIRE(length <= header_limit,
             "{}: the header's length {} exceeds the format's limit of {}: this is not a safetensors file",
             path, length, header_limit);
  WN_REQUIRE(length <= bytes.size() - length_bytes,
             "{}: the header has {} bytes, but the file ends after {}: it was cut", path, length,
             bytes.size() - length_bytes);
  const char* text = reinterpret_cast<const char*>(bytes.data()) + length_bytes;
  WN_REQUIRE(length >= 2 && *text == '{',
             "{}: the header does not begin with '{{': this is not a safetensors file", path);
  return {{text, length}, length_bytes + length};
}

std::map<std::string, std::string> parse_metadata(const std::filesystem::path& file,
                                                  const nlohmann::json& value) {
  std::map<std::string, std::string> metadata;
  WN_REQUIRE(value.is_object(), "{}: {} is not an object of texts", file.string(), metadata_key);
  for (const auto& [key, text] : value.items()) {
    WN_REQUIRE(text.is_string(), "{}: {}: {} is not a text", file.string(), metadata_key, key);
    metadata.emplace(key, text.get<std::string>());
  }
  return metadata;
}

// One entry, offsets still from the start of the data.
TensorEntry parse_entry(const std::string& place, const nlohmann::json& value, std::uint64_t data_bytes) {
  const auto is_size = [](const nlohmann::json& item) {
    return item.is_number_unsigned() && item.get<std::uint64_t>() <= std::numeric_limits<std::int64_t>::max();
  };
  const auto is_list = [&](const char* key) {
    return value[key].is_array() && std::ranges::all_of(value[key], is_size);
  };
  WN_REQUIRE(value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                 value.contains("data_offsets"),
             "{}: must hold dtype, shape and data_offsets and nothing else", place);
  WN_REQUIRE(value["dtype"].is_string(), "{}: dtype is not a text", place);
  const auto name = value["dtype"].get<std::string>();
  const auto dtype = dtype_named(name);
  WN_REQUIRE(dtype.has_value(), "{}: dtype {} is not known; one of {}", place, name, known_dtypes());
  WN_REQUIRE(is_list("shape"), "{}: shape {} is not a list of sizes", place, value["shape"].dump());
  WN_REQUIRE(is_list("data_offsets") && value["data_offsets"].size() == 2,
             "{}: data_offsets {} are not two positions", place, value["data_offsets"].dump());
  TensorEntry entry{*dtype, value["shape"].get<std::vector<std::int64_t>>(),
                    value["data_offsets"][0].get<std::uint64_t>(), 0};
  const auto end = value["data_offsets"][1].get<std::uint64_t>();
  const auto bytes = byte_count(entry.dtype, entry.shape);
  WN_REQUIRE(bytes.has_value(), "{}: shape {} is absurdly large", place, value["shape"].dump());
  WN_REQUIRE(entry.offset <= end && end <= data_bytes,
             "{}: data_offsets {} lie outside of the data, which has {} bytes: the file was cut", place,
             value["data_offsets"].dump(), data_bytes);
  WN_REQUIRE(*bytes == end - entry.offset, "{}: {} {} needs {} bytes, but data_offsets {} give it {}", place,
             name, value["shape"].dump(), *bytes, value["data_offsets"].dump(), end - entry.offset);
  entry.bytes = *bytes;
  return entry;
}

// Throws unless the entries cover the data without hole or overlap.
void check_cover(const std::filesystem::path& file, const std::map<std::string, TensorEntry>& entries,
                 std::uint64_t data_bytes) {
  std::vector<const std::pair<const std::string, TensorEntry>*> order;
  for (const auto& entry : entries) order.push_back(&entry);
  std::ranges::sort(order, {},
                    [](const auto* entry) { return std::pair(entry->second.offset, entry->second.bytes); });
  std::uint64_t covered = 0;
  for (const auto* entry : order) {
    const auto& [name, place] = *entry;
    WN_REQUIRE(place.offset >= covered,
               "{}: tensor {}: begins at byte {} of the data, inside of the tensor before it", file.string(),
               name, place.offset);
    WN_REQUIRE(place.offset == covered,
               "{}: tensor {}: begins at byte {} of the data, which leaves a hole after byte {}",
               file.string(), name, place.offset, covered);
    covered += place.bytes;
  }
  WN_REQUIRE(covered == data_bytes, "{}: the tensors end at byte {} of the data, which has {} bytes",
             file.string(), covered, data_bytes);
}

}  // namespace

std::optional<std::string_view> dtype_name(at::ScalarType dtype) {
  const auto* found = std::ranges::find(dtypes, dtype, [](const auto& row) { return row.first; });
  return found == dtypes.end() ? std::nullopt : std::optional(found->second);
}

std::optional<at::ScalarType> dtype_named(std::string_view name) {
  const auto* found = std::ranges::find(dtypes, name, [](const auto& row) { return row.second; });
  return found == dtypes.end() ? std::nullopt : std::optional(found->first);
}

std::optional<std::uint64_t> byte_count(at::ScalarType dtype, const std::vector<std::int64_t>& shape) {
  auto bytes = static_cast<std::int64_t>(c10::elementSize(dtype));
  // Strides are products too, and those of an empty tensor can overflow as well: its zeros count as ones.
  for (const std::int64_t size : shape)
    if (size < 0 || __builtin_mul_overflow(bytes, std::max<std::int64_t>(1, size), &bytes))
      return std::nullopt;
  const bool empty = std::ranges::find(shape, 0) != shape.end();
  return empty ? 0 : static_cast<std::uint64_t>(bytes);
}

WrittenSafetensors write_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                                     const std::map<std::string, std::string>& metadata) {
  WrittenSafetensors written;
  std::string header = make_header(tensors, metadata, file, written.entries);
  const std::uint64_t length = header.size();
  header.insert(0, reinterpret_cast<const char*>(&length), sizeof length);
  written.header_hash = hash_text(header);
  written.bytes = written.header_bytes = header.size();
  OutputFile output(file);
  output.write(header);
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor dense = tensor.detach().contiguous();
    const auto* data = static_cast<const std::byte*>(dense.const_data_ptr());
    RunningHash hash;
    for (std::size_t done = 0; done < dense.nbytes(); done += chunk_bytes) {
      const std::size_t bytes = std::min(chunk_bytes, dense.nbytes() - done);
      hash.add(data + done, bytes);
      output.write(data + done, bytes);
    }
    written.hashes[name] = hash.value();
    written.bytes += dense.nbytes();
  }
  output.sync_and_close();
  return written;
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& file) : file_(file) {
  const HeaderText header = find_header(file_);
  const std::uint64_t data_bytes = file_.bytes().size() - header.data_begin;
  const nlohmann::json table = parse_header(file, header.text);
  for (const auto& [name, value] : table.items()) {
    if (name == metadata_key)
      metadata_ = parse_metadata(file, value);
    else
      entries_.emplace(name,
                       parse_entry(fmt::format("{}: tensor {}", file.string(), name), value, data_bytes));
  }
  check_cover(file, entries_, data_bytes);
  for (auto& [name, entry] : entries_) entry.offset += header.data_begin;
}

const TensorEntry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  WN_REQUIRE(found != entries_.end(), "{}: has no tensor {}", file_.path().string(), name);
  return found->second;
}

std::span<const std::byte> SafetensorsFile::bytes(const std::string& name) const {
  const TensorEntry& place = entry(name);
  return file_.bytes().subspan(place.offset, place.bytes);
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const at::Tensor tensor = at::empty(entry(name).shape, entry(name).dtype);
  copy(name, tensor.mutable_data_ptr());
  return tensor;
}

std::uint64_t SafetensorsFile::copy(const std::string& name, void* target) const {
  const TensorEntry& place = entry(name);
  RunningHash hash;
  auto* begin = static_cast<std::byte*>(target);
  for (std::size_t done = 0; done < place.bytes; done += chunk_bytes) {
    const std::span chunk(begin + done, std::min(chunk_bytes, place.bytes - done));
    file_.copy(place.offset + done, chunk);
    hash.add(chunk.data(), chunk.size());
  }
  return hash.value();
}

}  // namespace wuneng::trainer
