#include "trainer/formats/pickle.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "common/check.h"

namespace wuneng::trainer {
namespace {

// Opcodes of the pickle protocol 2, as far as dictionaries of tensors need them.
enum Opcode : unsigned char {
  MARK = '(',
  STOP = '.',
  BININT = 'J',
  BININT1 = 'K',
  BININT2 = 'M',
  NONE = 'N',
  BINPERSID = 'Q',
  REDUCE = 'R',
  BINUNICODE = 'X',
  BUILD = 'b',
  GLOBAL = 'c',
  BINGET = 'h',
  LONG_BINGET = 'j',
  BINPUT = 'q',
  LONG_BINPUT = 'r',
  SETITEM = 's',
  TUPLE = 't',
  SETITEMS = 'u',
  EMPTY_DICT = '}',
  EMPTY_TUPLE = ')',
  PROTO = 0x80,
  TUPLE1 = 0x85,
  TUPLE2 = 0x86,
  TUPLE3 = 0x87,
  NEWTRUE = 0x88,
  NEWFALSE = 0x89,
  LONG1 = 0x8a
};

constexpr int deepest = 4;  // nesting of tuples; tensors need 2

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 10> storages{
    {{"torch FloatStorage", at::kFloat},
     {"torch DoubleStorage", at::kDouble},
     {"torch HalfStorage", at::kHalf},
     {"torch BFloat16Storage", at::kBFloat16},
     {"torch LongStorage", at::kLong},
     {"torch IntStorage", at::kInt},
     {"torch ShortStorage", at::kShort},
     {"torch CharStorage", at::kChar},
     {"torch ByteStorage", at::kByte},
     {"torch BoolStorage", at::kBool}}};

// Values are shared, as a pickle's are: its memo names one many times.
struct Text {
  std::string text;
};
struct Global {
  std::string name;  // "module class"
};
struct Storage {
  std::string record;
  at::ScalarType dtype;
};
struct Dictionary {
  std::map<std::string, PickledTensor> tensors;
  std::optional<std::string> other;  // the key of an entry that is no tensor
};
struct Tuple;
template <class T>
using Shared = std::shared_ptr<T>;
using Value =
    std::variant<std::monostate, bool, std::int64_t, Shared<const Text>, Shared<const Global>,
                 Shared<const Storage>, Shared<const Tuple>, Shared<const PickledTensor>, Shared<Dictionary>>;
struct Tuple {
  std::vector<Value> items;
  int depth = 1;
};

class Machine {
 public:
  explicit Machine(std::string_view pickle) : pickle_(pickle) {}

  std::map<std::string, PickledTensor> run() {
    for (Opcode opcode = next(); opcode != STOP; opcode = next()) step(opcode);
    const auto dictionary = pop<Shared<Dictionary>>("the dictionary of tensors");
    require(!dictionary->other.has_value(),
            fmt::format("entry {}: is no tensor; save a dictionary of tensors alone",
                        dictionary->other.value_or("")));
    return std::move(dictionary->tensors);
  }

 private:
  void step(Opcode opcode);
  Opcode next() { return static_cast<Opcode>(number<std::uint8_t>()); }
  void require(bool holds, const std::string& what) const {
    WN_REQUIRE(holds, "byte {} of its pickle: {}", at_, what);
  }

  std::string_view bytes(std::size_t count) {
    require(count <= pickle_.size() - at_, "the file was cut");
    at_ += count;
    return pickle_.substr(at_ - count, count);
  }
  void skip(std::size_t count) { bytes(count); }
  std::string_view line() {
    const std::size_t end = pickle_.find('\n', at_);
    require(end != std::string_view::npos, "the file was cut");
    const std::string_view text = bytes(end - at_);
    ++at_;
    return text;
  }
  template <class T>
  T number() {
    T value;
    std::memcpy(&value, bytes(sizeof value).data(), sizeof value);
    return value;
  }

  void push(Value value) { stack_.push_back(std::move(value)); }
  Value pop() {
    require(!stack_.empty(), "a value is missing");
    Value value = std::move(stack_.back());
    stack_.pop_back();
    return value;
  }
  void drop() { pop(); }
  template <class T>
  T as(const Value& value, const char* wanted) const {
    require(std::holds_alternative<T>(value), fmt::format("{} is wanted here", wanted));
    return std::get<T>(value);
  }
  template <class T>
  T pop(const char* wanted) {
    return as<T>(pop(), wanted);
  }

  std::vector<Value> pop_to_mark();
  std::vector<Value> pop_last(std::size_t count);
  void put(std::uint32_t index);
  void get(std::uint32_t index);
  void push_long();
  void push_tuple(std::vector<Value> items);
  void push_global();
  void set_items(std::vector<Value> items);
  void push_storage();
  void reduce();
  PickledTensor tensor_of(const Tuple& arguments) const;
  std::vector<std::int64_t> sizes_of(const Value& value) const;

  std::string_view pickle_;
  std::size_t at_ = 0;
  std::vector<Value> stack_;
  std::vector<std::size_t> marks_;
  std::map<std::uint32_t, Value> memo_;
};

void Machine::step(Opcode opcode) {
  switch (opcode) {
    case PROTO:
      return skip(1);
    case MARK:
      return marks_.push_back(stack_.size());
    case NONE:
      return push(std::monostate());
    case NEWTRUE:
    case NEWFALSE:
      return push(opcode == NEWTRUE);
    case BININT:
      return push(std::int64_t{number<std::int32_t>()});
    case BININT1:
      return push(std::int64_t{number<std::uint8_t>()});
    case BININT2:
      return push(std::int64_t{number<std::uint16_t>()});
    case LONG1:
      return push_long();
    case BINUNICODE:
      return push(std::make_shared<const Text>(std::string(bytes(number<std::uint32_t>()))));
    case GLOBAL:
      return push_global();
    case BINPUT:
      return put(number<std::uint8_t>());
    case LONG_BINPUT:
      return put(number<std::uint32_t>());
    case BINGET:
      return get(number<std::uint8_t>());
    case LONG_BINGET:
      return get(number<std::uint32_t>());
    case EMPTY_TUPLE:
      return push_tuple({});
    case TUPLE1:
    case TUPLE2:
    case TUPLE3:
      return push_tuple(pop_last(static_cast<std::size_t>(opcode - TUPLE1 + 1)));
    case TUPLE:
      return push_tuple(pop_to_mark());
    case EMPTY_DICT:
      return push(std::make_shared<Dictionary>());
    case SETITEM:
      return set_items(pop_last(2));
    case SETITEMS:
      return set_items(pop_to_mark());
    case BINPERSID:
      return push_storage();
    case REDUCE:
      return reduce();
    case BUILD:  // attributes of the object below, such as the versions of a state_dict
      return drop();
    default:
      require(false, fmt::format("opcode {:#04x} is no part of a dictionary of tensors", +opcode));
  }
}

std::vector<Value> Machine::pop_to_mark() {
  require(!marks_.empty() && marks_.back() <= stack_.size(), "a mark is missing");
  const auto begin = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<Value> items(std::make_move_iterator(begin), std::make_move_iterator(stack_.end()));
  stack_.erase(begin, stack_.end());
  marks_.pop_back();
  return items;
}

std::vector<Value> Machine::pop_last(std::size_t count) {
  std::vector<Value> items(count);
  while (count > 0) items[--count] = pop();
  return items;
}

void Machine::put(std::uint32_t index) {
  require(!stack_.empty(), "a value is missing");
  memo_[index] = stack_.back();
}

void Machine::get(std::uint32_t index) {
  const auto found = memo_.find(index);
  require(found != memo_.end(), "a value is missing");
  push(found->second);
}

// An integer of any number of bytes, little-endian, in two's complement.
void Machine::push_long() {
  const std::string_view digits = bytes(number<std::uint8_t>());
  require(digits.size() <= sizeof(std::int64_t), "an integer is too large");
  std::int64_t value = !digits.empty() && (digits.back() & 0x80) != 0 ? -1 : 0;
  std::memcpy(&value, digits.data(), digits.size());
  push(value);
}

void Machine::push_global() {
  const std::string module(line());
  push(std::make_shared<const Global>(module + " " + std::string(line())));
}

void Machine::push_tuple(std::vector<Value> items) {
  Tuple tuple{std::move(items)};
  for (const Value& item : tuple.items)
    if (const auto* inner = std::get_if<Shared<const Tuple>>(&item))
      tuple.depth = std::max(tuple.depth, 1 + (*inner)->depth);
  require(tuple.depth <= deepest, "tuples are nested too deeply");
  push(std::make_shared<const Tuple>(std::move(tuple)));
}

void Machine::set_items(std::vector<Value> items) {
  require(!stack_.empty() && items.size() % 2 == 0, "a value is missing");
  const auto dictionary = as<Shared<Dictionary>>(stack_.back(), "a dictionary");
  for (std::size_t i = 0; i < items.size(); i += 2) {
    const auto* name = std::get_if<Shared<const Text>>(&items[i]);
    const auto* tensor = std::get_if<Shared<const PickledTensor>>(&items[i + 1]);
    if (name && tensor)
      dictionary->tensors[(*name)->text] = **tensor;
    else
      dictionary->other = name ? (*name)->text : "whose key is no text";
  }
}

// ("storage", class, record, device, elements)
void Machine::push_storage() {
  const auto id = pop<Shared<const Tuple>>("a storage");
  require(id->items.size() == 5, "a storage of five parts is wanted here");
  const auto type = as<Shared<const Global>>(id->items[1], "the class of a storage");
  const auto record = as<Shared<const Text>>(id->items[2], "the name of a record");
  for (const auto& [name, dtype] : storages)
    if (name == type->name) return push(std::make_shared<const Storage>(record->text, dtype));
  require(false, fmt::format("{} is no storage that this program reads", type->name));
}

void Machine::reduce() {
  const auto arguments = pop<Shared<const Tuple>>("arguments");
  const auto function = pop<Shared<const Global>>("a class");
  if (function->name == "collections OrderedDict" && arguments->items.empty())
    return push(std::make_shared<Dictionary>());
  if (function->name == "torch._utils _rebuild_tensor_v2")
    return push(std::make_shared<const PickledTensor>(tensor_of(*arguments)));
  if (function->name == "torch._utils _rebuild_parameter" && !arguments->items.empty())
    return push(as<Shared<const PickledTensor>>(arguments->items[0], "a tensor"));
  require(false, fmt::format("{} is no part of a dictionary of tensors", function->name));
}

// (storage, offset, shape, strides, ...)
PickledTensor Machine::tensor_of(const Tuple& arguments) const {
  require(arguments.items.size() >= 4, "a tensor of four parts or more is wanted here");
  const auto storage = as<Shared<const Storage>>(arguments.items[0], "a storage");
  PickledTensor tensor{storage->record, storage->dtype, as<std::int64_t>(arguments.items[1], "an offset"),
                       sizes_of(arguments.items[2]), sizes_of(arguments.items[3])};
  require(tensor.shape.size() == tensor.strides.size(), "a tensor has as many strides as dimensions");
  return tensor;
}

std::vector<std::int64_t> Machine::sizes_of(const Value& value) const {
  std::vector<std::int64_t> sizes;
  for (const Value& item : as<Shared<const Tuple>>(value, "a shape")->items)
    sizes.push_back(as<std::int64_t>(item, "a size"));
  return sizes;
}

}  // namespace

std::map<std::string, PickledTensor> unpickle_tensors(std::string_view pickle) {
  return Machine(pickle).run();
}

}  // namespace wuneng::trainer
