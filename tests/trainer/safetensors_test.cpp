#include "trainer/safetensors.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "common/check.h"
#include "tests/support/scratch.h"

namespace wuneng::trainer {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using tests::message_of;
using tests::Scratch;

// The format as its specification words it, built without the code under test.
std::string file_of(const std::string& header, const std::string& data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + data;
}

// A new file each time: overwriting one makes some file systems wait for the disk.
void put(const std::filesystem::path& path, const std::string& bytes) {
  std::filesystem::remove(path);
  OutputFile(path).write(bytes);
}

std::string refusal(const Scratch& scratch, const std::string& bytes) {
  put(scratch / "bad.safetensors", bytes);
  return message_of<UsageError>([&] { SafetensorsFile(scratch / "bad.safetensors"); });
}

void expect_same(const at::Tensor& got, const at::Tensor& expected) {
  EXPECT_EQ(got.scalar_type(), expected.scalar_type());
  EXPECT_EQ(got.sizes(), expected.sizes());
  EXPECT_TRUE(got.is_contiguous());
  EXPECT_TRUE(at::equal(got, expected));
}

TEST(Safetensors, EveryDtypeAndShapeComesBackAsItWas) {
  const Scratch scratch;
  NamedTensors tensors;
  for (const auto dtype :
       {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong, at::kInt, at::kByte, at::kBool})
    tensors.emplace_back(c10::toString(dtype), at::arange(15).view({3, 5}).to(dtype));
  tensors.emplace_back("scalar", at::full({}, 2.5, at::kDouble));
  tensors.emplace_back("empty", at::empty({3, 0, 2}, at::kFloat));
  tensors.emplace_back("transposed", at::arange(24, at::kFloat).view({2, 3, 4}).transpose(0, 2));
  tensors.emplace_back("every other", at::arange(24, at::kLong).view({4, 6}).slice(1, 1, 6, 2));
  tensors.emplace_back("trained", at::ones({2}, at::kFloat).requires_grad_());
  tensors.emplace_back("näme \"quoted\"\n", at::ones({1}, at::kByte));
  const auto written =
      write_safetensors(scratch / "all.safetensors", tensors, {{"format", "pt"}, {"note", "a \"b\"\n"}});
  const SafetensorsFile file(scratch / "all.safetensors");
  ASSERT_EQ(file.entries().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    expect_same(file.read(name), tensor);
    EXPECT_EQ(written.entries.at(name).offset, file.entries().at(name).offset);
    EXPECT_EQ(written.entries.at(name).bytes, tensor.nbytes());
    EXPECT_EQ(written.entries.at(name).shape, file.entries().at(name).shape);
  }
  EXPECT_THAT(file.metadata(), ElementsAre(std::pair("format", "pt"), std::pair("note", "a \"b\"\n")));
}

TEST(Safetensors, WritesByteForByteWhatTheFormatSays) {
  const Scratch scratch;
  write_safetensors(scratch / "a", {{"b", at::full({2}, 7, at::kByte)}, {"a", at::full({1}, -2, at::kInt)}},
                    {{"k", "v"}});
  std::string header = R"({"__metadata__":{"k":"v"},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},)"
                       R"("a":{"dtype":"I32","shape":[1],"data_offsets":[2,6]}})";
  while (header.size() % 8 != 0) header += ' ';
  EXPECT_EQ(read_text(scratch / "a"), file_of(header, std::string("\x07\x07\xfe\xff\xff\xff", 6)));
  write_safetensors(scratch / "none", {});
  EXPECT_EQ(read_text(scratch / "none"), file_of("{}      ", ""));
  EXPECT_TRUE(SafetensorsFile(scratch / "none").entries().empty());
}

TEST(Safetensors, ReadsAFileBuiltByHand) {
  const Scratch scratch;
  const float values[] = {1.5F, -2.0F};
  std::string data("\x01\x00\x01", 3);  // leaves the floats at an odd place
  data.append(reinterpret_cast<const char*>(values), sizeof values);
  put(scratch / "hand",
      file_of(
          R"({"x":{"shape":[1,2],"data_offsets":[3,11],"dtype":"F32"}, "flags":)"
          R"({"dtype":"BOOL","shape":[3],"data_offsets":[0,3]},"none":{"dtype":"F16","shape":[0],"data_offsets":[3,3]}})",
          data));
  const SafetensorsFile file(scratch / "hand");
  const at::Tensor x = file.read("x");
  expect_same(x, at::arange(1.5, -5.0, -3.5, at::kFloat).view({1, 2}));
  EXPECT_EQ(file.read("flags").to(at::kByte).sum().item<int>(), 2);
  EXPECT_EQ(file.read("none").numel(), 0);
  EXPECT_EQ(file.bytes("x").size(), 8U);
  EXPECT_THAT(message_of<UsageError>([&] { file.read("y"); }), HasSubstr("hand: has no tensor y"));
}

TEST(Safetensors, ReadTensorsOutliveTheFile) {
  const Scratch scratch;
  write_safetensors(scratch / "a", {{"x", at::arange(4)}});
  auto file = std::make_unique<SafetensorsFile>(scratch / "a");
  const at::Tensor x = file->read("x");
  file.reset();
  expect_same(x, at::arange(4));
}

TEST(Safetensors, WhatCannotBeStoredIsRefusedByName) {
  const Scratch scratch;
  const auto refused = [&](const NamedTensors& tensors) {
    return message_of<Error>([&] { write_safetensors(scratch / "a", tensors); });
  };
  EXPECT_THAT(refused({{"c", at::ones({1}, at::kComplexFloat)}}),
              AllOf(HasSubstr("tensor c: dtype ComplexFloat"), HasSubstr("F32, F64")));
  EXPECT_THAT(refused({{"x", at::ones({1})}, {"x", at::ones({1})}}),
              HasSubstr("tensor x: the name is taken"));
  EXPECT_THAT(refused({{"__metadata__", at::ones({1})}}), HasSubstr("the name is taken"));
  EXPECT_THAT(refused({{"m", at::empty({1}, at::TensorOptions().device(at::kMeta))}}),
              HasSubstr("tensor m: is on meta"));
}

TEST(Safetensors, AFullDiskIsAnErrorWithThePath) {
  const Scratch scratch;
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit tiny{1000, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &tiny);
  const std::string message = message_of<Error>([&] {
    write_safetensors(scratch / "big", {{"x", at::ones({1000})}});
  });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_THAT(message, HasSubstr("big: write failed"));
}

TEST(Safetensors, HeadersThatAreNotOnesAreRefused) {
  const Scratch scratch;
  const auto expect = [&](const std::string& bytes, const std::string& message) {
    EXPECT_THAT(refusal(scratch, bytes), AllOf(HasSubstr("bad.safetensors: "), HasSubstr(message)));
  };
  expect("", "has 0 bytes");
  expect("1234567", "has 7 bytes");
  expect(std::string(8, '\0'), "does not begin with '{'");
  expect(file_of("[1]", ""), "does not begin with '{'");
  expect(file_of(" {}", ""), "does not begin with '{'");
  expect(std::string("\x01\xe1\xf5\x05\0\0\0\0", 8), "header's length 100000001 exceeds");
  expect(std::string(8, '\xff'), "header's length 18446744073709551615 exceeds");
  expect(file_of("{}", "").substr(0, 9), "the header has 2 bytes, but the file ends after 1");
  expect(file_of("{]", ""), "not valid JSON");
  expect(file_of("{\"a\":\xff}", ""), "not valid JSON");
  expect(file_of("{} x", ""), "not valid JSON");
  expect(file_of("{\"a\":" + std::string(100000, '['), ""), "nested too deeply");
  expect(file_of("{}", "x"), "the tensors end at byte 0 of the data, which has 1 bytes");
  expect(file_of(R"({"__metadata__":[]})", ""), "__metadata__ is not an object");
  expect(file_of(R"({"__metadata__":{"k":1}})", ""), "__metadata__: k is not a text");
  expect(file_of(R"({"__metadata__":{"k":"1","k":"2"}})", ""), "__metadata__: k stands twice");
}

TEST(Safetensors, EntriesThatAreWrongAreRefusedByName) {
  const Scratch scratch;
  const auto expect = [&](const std::string& entry, const std::string& message) {
    EXPECT_THAT(refusal(scratch, file_of("{\"w\":" + entry + "}", std::string(8, 'x'))),
                AllOf(HasSubstr("bad.safetensors: tensor w: "), HasSubstr(message)));
  };
  expect("1", "must hold dtype, shape and data_offsets");
  expect(R"({"dtype":"F32","shape":[2]})", "must hold dtype, shape and data_offsets");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})", "and nothing else");
  expect(R"({"dtype":"F32","dtype":"I32","shape":[2],"data_offsets":[0,8]})", "dtype stands twice");
  expect(R"({"dtype":1,"shape":[2],"data_offsets":[0,8]})", "dtype is not a text");
  expect(R"({"dtype":"F31","shape":[2],"data_offsets":[0,8]})",
         "dtype F31 is not known; one of F32, F64, BF16, F16, I64, I32, U8, BOOL");
  expect(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})", "shape 2 is not a list");
  expect(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})", "shape [2.0] is not a list");
  expect(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})", "shape [-2] is not a list");
  expect(R"({"dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8]})", "is not a list");
  expect(R"({"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]})", "is absurdly large");
  expect(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", "is absurdly large");
  expect(R"({"dtype":"F32","shape":[0,4294967296,4294967296],"data_offsets":[0,0]})", "is absurdly large");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[8]})", "are not two positions");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[0,-8]})", "are not two positions");
  expect(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})", "lie outside of the data");
  expect(R"({"dtype":"F32","shape":[3],"data_offsets":[0,12]})",
         "lie outside of the data, which has 8 bytes");
  expect(R"({"dtype":"F32","shape":[1],"data_offsets":[0,8]})",
         "F32 [1] needs 4 bytes, but data_offsets [0,8] give it 8");
  expect(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})", "leaves a hole after byte 0");
}

TEST(Safetensors, TwinsOverlapsAndHolesAreRefusedByName) {
  const Scratch scratch;
  const auto expect = [&](const std::string& other, const std::string& message) {
    const std::string first = R"("v":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)";
    EXPECT_THAT(refusal(scratch, file_of("{" + first + other + "}", std::string(8, 'x'))),
                AllOf(HasSubstr("bad.safetensors: "), HasSubstr(message)));
  };
  expect(R"("v":{"dtype":"U8","shape":[4],"data_offsets":[4,8]})", "tensor v: stands twice in the header");
  expect(R"("w":{"dtype":"U8","shape":[5],"data_offsets":[3,8]})",
         "tensor w: begins at byte 3 of the data, inside of the tensor before it");
  expect(R"("w":{"dtype":"U8","shape":[3],"data_offsets":[5,8]})",
         "tensor w: begins at byte 5 of the data, which leaves a hole after byte 4");
  expect(R"("w":{"dtype":"U8","shape":[3],"data_offsets":[4,7]})",
         "the tensors end at byte 7 of the data, which has 8 bytes");
}

std::string small_file(const Scratch& scratch) {
  write_safetensors(scratch / "small",
                    {{"a", at::arange(3, at::kFloat)},
                     {"b", at::full({}, 9, at::kLong)},
                     {"c", at::empty({0, 2}, at::kByte)}},
                    {{"k", "v"}});
  return read_text(scratch / "small");
}

TEST(Safetensors, AFileCutAnywhereIsRefused) {
  const Scratch scratch;
  const std::string whole = small_file(scratch);
  for (std::size_t length = 0; length < whole.size(); ++length) {
    SCOPED_TRACE(length);
    refusal(scratch, whole.substr(0, length));
  }
}

// What survives a change of one byte still covers the data exactly: nothing is read twice, left out, or taken
// from elsewhere.
TEST(Safetensors, AChangedByteIsRefusedOrMovesNoData) {
  const Scratch scratch;
  const std::string whole = small_file(scratch);
  const std::size_t data_begin = whole.size() - 20;
  int refused = 0, read = 0;
  for (std::size_t i = 0; i < whole.size(); ++i)
    for (const int change : {1, 2, 4, 8, 16, 32, 64, 128, 0x0f, 0xff}) {  // 0x0f turns F32 into I32
      std::string bytes = whole;
      bytes[i] = static_cast<char>(bytes[i] ^ change);
      put(scratch / "changed", bytes);
      try {
        const SafetensorsFile file(scratch / "changed");
        std::map<std::uint64_t, std::string> pieces;
        for (const auto& [name, entry] : file.entries()) {
          const at::Tensor tensor = file.read(name);
          pieces[entry.offset].append(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
        }
        std::string data;
        for (const auto& [offset, piece] : pieces) data += piece;
        ASSERT_EQ(data, bytes.substr(data_begin)) << "byte " << i << " changed by " << change;
        ++read;
      } catch (const UsageError& error) {
        ASSERT_THAT(error.what(), HasSubstr("changed: ")) << "byte " << i << " changed by " << change;
        ++refused;
      }
    }
  EXPECT_GT(refused, read);
  EXPECT_GE(read, 20 * 10);
}

}  // namespace
}  // namespace wuneng::trainer
