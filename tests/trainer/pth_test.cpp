// .pth files that are cut, changed or made to harm: one error, never a crash. What PyTorch itself writes is
// read in import_test.py.
#include "trainer/formats/pth.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/equal.h>
#include <caffe2/serialize/inline_container.h>
#include <gmock/gmock.h>

#include <cstring>
#include <fstream>
#include <random>

#include "common/check.h"
#include "common/file.h"
#include "tests/support/scratch.h"
#include "trainer/formats/pickle.h"

namespace wuneng::tests {
namespace {

using namespace wuneng::trainer;
using testing::AllOf;
using testing::HasSubstr;

using namespace std::string_literals;

std::string text(std::string_view value) {  // BINUNICODE
  const auto size = static_cast<std::uint32_t>(value.size());
  return "X" + std::string(reinterpret_cast<const char*>(&size), 4) + std::string(value);
}
std::string integer(std::int32_t value) {  // BININT
  return "J" + std::string(reinterpret_cast<const char*>(&value), 4);
}
std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
std::string tuple(const std::string& items) { return "(" + items + "t"; }

// The pickle of {"x": tensor}: what torch.save() writes, without its memo.
std::string pickle(const std::string& tensor) { return "\x80\x02}" + text("x") + tensor + "s."; }
std::string storage(const std::string& kind, const std::string& record) {
  return tuple(text("storage") + global("torch", kind) + text(record) + text("cpu") + integer(6)) + "Q";
}
std::string tensor(const std::string& from, std::int32_t offset, const std::string& shape,
                   const std::string& strides) {
  return global("torch._utils", "_rebuild_tensor_v2") +
         tuple(from + integer(offset) + shape + strides + "\x89" + global("collections", "OrderedDict") +
               ")R") +
         "R";
}
std::string good() {
  return pickle(tensor(storage("FloatStorage", "0"), 0, tuple(integer(2) + integer(3)),
                       tuple(integer(3) + integer(1))));
}

class Pth : public testing::Test {
 protected:
  // A file of this pickle and of a record "data/0" of 6 floats.
  std::filesystem::path file(const std::string& pickled, const std::string& order = "little") const {
    const std::filesystem::path path = scratch / "m.pth";
    const at::Tensor data = at::arange(6, at::kFloat);
    OutputFile output(path);
    caffe2::serialize::PyTorchStreamWriter zip([&](const void* bytes, std::size_t count) {
      output.write(bytes, count);
      return count;
    });
    zip.writeRecord("data.pkl", pickled.data(), pickled.size());
    zip.writeRecord("byteorder", order.data(), order.size());
    zip.writeRecord("data/0", data.const_data_ptr(), data.nbytes());
    zip.writeEndOfFile();
    return path;
  }

  void expect_refused(const std::string& pickled, const std::string& part) const {
    EXPECT_THAT(message_of<UsageError>([&] { read_pth(file(pickled)); }),
                AllOf(HasSubstr("m.pth"), HasSubstr(part)));
  }

  Scratch scratch;
};

TEST_F(Pth, WhatIsWrittenIsRead) {
  const at::Tensor whole = at::arange(24, at::kFloat).view({4, 6});
  const NamedTensors tensors{
      {"a", whole}, {"b", whole.t()}, {"c", whole[1].to(at::kBFloat16)}, {"d", whole.narrow(0, 1, 2)}};
  write_pth(scratch / "m.pth", tensors);
  const StoredTensors stored = read_pth(scratch / "m.pth");
  ASSERT_EQ(stored.size(), tensors.size());
  for (const auto& [name, value] : tensors) {
    EXPECT_EQ(stored.at(name).shape, value.sizes().vec()) << name;
    EXPECT_TRUE(at::equal(stored.at(name).read(), value)) << name;
  }
}

TEST_F(Pth, ATensorKeepsItsFileOpen) {
  const at::Tensor read = read_pth(file(good())).at("x").read();
  EXPECT_TRUE(at::equal(read, at::arange(6, at::kFloat).view({2, 3})));
}

TEST_F(Pth, ViewsThatReachOutOfTheirStorageAreRefused) {
  const std::string from = storage("FloatStorage", "0");
  const auto one = [&](std::int32_t offset, std::int32_t size, std::int32_t stride) {
    return pickle(tensor(from, offset, tuple(integer(size)), tuple(integer(stride))));
  };
  EXPECT_EQ(read_pth(file(one(5, 1, 1))).size(), 1U);
  EXPECT_EQ(read_pth(file(one(0, 0, 1))).size(), 1U);
  for (const std::string& bad : {one(6, 1, 1), one(-1, 1, 1), one(0, 7, 1), one(0, 2, 6), one(5, 2, -1),
                                 one(0, -1, 1), one(0x7fffffff, 0x7fffffff, 0x7fffffff)})
    expect_refused(bad, "x: reaches out of its 24 stored bytes");
  const std::string large = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f"s;  // LONG1 2^63 - 1
  expect_refused(pickle(tensor(from, 0, tuple(large + large), tuple(large + large))), "reaches out");
  expect_refused(pickle(tensor(storage("DoubleStorage", "0"), 0, tuple(integer(4)), tuple(integer(1)))),
                 "reaches out");
}

TEST_F(Pth, WhatIsNoDictionaryOfTensorsIsRefused) {
  const std::string from = storage("FloatStorage", "0"), shape = tuple(integer(2)),
                    stride = tuple(integer(1));
  expect_refused(pickle(integer(3)), "entry x: is no tensor");
  expect_refused(pickle("}"), "entry x: is no tensor");
  expect_refused("\x80\x02}" + integer(1) + integer(2) + "s.", "whose key is no text");
  expect_refused(integer(3) + ".", "the dictionary of tensors is wanted");
  expect_refused(pickle(global("os", "system") + tuple(text("touch " + (scratch / "harm").string())) + "R"),
                 "os system is no part of a dictionary");
  EXPECT_FALSE(std::filesystem::exists(scratch / "harm"));
  expect_refused(pickle(tensor(storage("QInt8Storage", "0"), 0, shape, stride)), "torch QInt8Storage");
  expect_refused(pickle(tensor(storage("FloatStorage", "7"), 0, shape, stride)), "data/7");
  expect_refused(pickle(tensor(from, 0, shape, tuple(integer(1) + integer(1)))), "as many strides");
  expect_refused(pickle(tensor(integer(0), 0, shape, stride)), "a storage is wanted");
  expect_refused(pickle("\x95"), "opcode 0x95");
  EXPECT_THAT(message_of<UsageError>([&] { read_pth(file(good(), "big")); }), HasSubstr("big-endian"));
}

TEST_F(Pth, PicklesMadeToExhaustAreRefused) {
  expect_refused(std::string(100'000, ')') + std::string(100'000, '\x85'), "nested too deeply");
  expect_refused("}r\xff\xff\xff\xff" + std::string("j\xfe\xff\xff\xff."),
                 "a value is missing");  // a far memo
  expect_refused("X\xff\xff\xff\xff", "the file was cut");
  expect_refused("\x8a\xff" + std::string(255, '\1') + ".", "too large");
  expect_refused("}}ss.", "a value is missing");
  expect_refused("(t(}u.", "a value is missing");
  expect_refused("t", "a mark is missing");
  expect_refused("(0", "opcode");
  expect_refused("", "the file was cut");
}

// Every prefix of the pickle, and many changes of one to three of its bytes: an error or tensors, and no
// more.
TEST_F(Pth, ChangedPicklesGiveAnErrorOrTensors) {
  const std::string whole = good();
  const auto survives = [](const std::string& bytes) {
    try {
      unpickle_tensors(bytes);
    } catch (const UsageError&) {
    }
  };
  for (std::size_t size = 0; size < whole.size(); ++size)
    EXPECT_THROW(unpickle_tensors(std::string_view(whole).substr(0, size)), UsageError) << size;
  std::mt19937 random(1);
  for (int round = 0; round < 50'000; ++round) {
    std::string changed = whole;
    for (std::uint32_t change = random() % 3; change < 3; ++change) {
      const std::size_t at = random() % changed.size();
      if (random() % 4 == 0)
        changed.erase(at, 1 + random() % 6);
      else
        changed[at] = static_cast<char>(random());
      if (changed.empty()) changed = ".";
    }
    survives(changed);
  }
}

// The zip's table says in its own words how large a record is.
TEST_F(Pth, RecordsThatReachOutOfTheFileAreRefused) {
  std::string whole = read_text(file(good()));
  const std::size_t entry = whole.rfind("PK\1\2", whole.rfind("data/0"));
  const std::uint32_t size = 24, large = 0x7fffff00;
  ASSERT_EQ(std::memcmp(&whole[entry + 24], &size, sizeof size), 0);
  std::memcpy(&whole[entry + 24], &large, sizeof large);
  whole[entry + 10] = 8;  // deflated, so that the zip's reader cannot know better
  std::ofstream(scratch / "large.pth", std::ios::binary) << whole;
  EXPECT_THAT(message_of<UsageError>([&] { read_pth(scratch / "large.pth"); }),
              AllOf(HasSubstr("large.pth: record data/0"), HasSubstr("beyond the end of the file")));
}

TEST_F(Pth, CompressedRecordsAreRefused) {
  std::string whole = read_text(file(good()));
  whole[whole.rfind("PK\3\4", whole.find("data/0")) + 8] = 8;  // its header says: deflated
  std::ofstream(scratch / "small.pth", std::ios::binary) << whole;
  EXPECT_THAT(
      message_of<UsageError>([&] { read_pth(scratch / "small.pth"); }),
      AllOf(HasSubstr("small.pth: record data/0"), HasSubstr("compressed"), HasSubstr("torch.save()")));
}

// The same for the zip around it; what can be opened is read to the end.
TEST_F(Pth, ChangedFilesGiveAnErrorOrTensors) {
  const std::string whole = read_text(file(good()));
  const auto refused = [&](const std::string& bytes) {
    std::ofstream(scratch / "changed.pth", std::ios::binary) << bytes;
    try {
      for (const auto& [name, stored] : read_pth(scratch / "changed.pth")) stored.read().sum();
      return false;
    } catch (const UsageError&) {
      return true;
    }
  };
  EXPECT_FALSE(refused(whole));
  for (std::size_t size = 0; size < whole.size(); size += 7)
    EXPECT_TRUE(refused(whole.substr(0, size))) << size;
  std::mt19937 random(2);
  for (int round = 0; round < 1000; ++round) {
    std::string changed = whole;
    for (std::uint32_t change = random() % 4; change < 4; ++change)
      changed[random() % changed.size()] = static_cast<char>(random() % 3 == 0 ? 0xff : random());
    refused(changed);
  }
}

}  // namespace
}  // namespace wuneng::tests
