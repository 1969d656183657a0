#include "storage/pickle.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/errors.h"
#include "base/utf8.h"

namespace surgery {
namespace {

using Kind = Pickle::Kind;
using Index = Pickle::Index;

constexpr size_t kByteLimit = 64 << 20;    // a state dict takes about 150 bytes a tensor
constexpr size_t kValueLimit = 2'000'000;  // and about 20 values; also for the stack, the memo and the links
constexpr size_t kMarkLimit = 64, kGlobalLimit = 256;
constexpr uint8_t kDepthLimit = 32;

}  // namespace

/// Python's pickle machine, reduced to data.
class PickleMachine {
 public:
  PickleMachine(Pickle& pickle, std::span<const std::byte> bytes, const std::string& where,
                Pickle::GlobalCheck check)
      : values_(pickle.values_),
        links_(pickle.links_),
        globals_(pickle.globals_),
        bytes_(bytes),
        where_(where),
        check_(check) {}

  Index run() {
    VALIDATE(bytes_.size() <= kByteLimit,
             "{}: {} bytes are more than a state dict needs, at most {} are read", where_, bytes_.size(),
             kByteLimit);
    VALIDATE(bytes_.size() >= 2 && take(1)[0] == '\x80',
             "{}: does not begin like a pickle (damaged or foreign file): save it again", where_);
    const uint64_t protocol = number(1);
    VALIDATE(protocol >= 2 && protocol <= 5,
             "{}: pickle protocol {}, only 2 to 5 are read: save it with torch.save", where_, protocol);
    while (!stopped_) step();
    VALIDATE(stack_.size() == 1 && marks_.empty() && position_ == bytes_.size(),
             "{}: leaves {} values and {} bytes behind (damaged pickle): save it again", where_,
             stack_.size(), bytes_.size() - position_);
    return stack_[0];
  }

 private:
  /// What an opcode does. Codes, and the words for them, are those of Python's Lib/pickle.py.
  struct Opcode {
    uint8_t code;
    void (*run)(PickleMachine&);
  };
  static const std::array<Opcode, 35> kOpcodes;

  void step() {
    const uint8_t code = static_cast<uint8_t>(take(1)[0]);
    for (const Opcode& opcode : kOpcodes)
      if (opcode.code == code) return opcode.run(*this);
    fail(
        "opcode {:#04x} is not one by which torch.save writes a state dict (damaged or foreign file): save "
        "only model.state_dict(), or convert the file to safetensors",
        code);
  }

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    fail_data("{}: byte {}: {}", where_, position_, fmt::format(format, std::forward<Args>(args)...));
  }

  // ---- bytes
  std::string_view take(uint64_t count) {
    if (count > bytes_.size() - position_)
      fail("the pickle ends before {} more bytes (truncated): copy it again", count);
    const std::string_view result(reinterpret_cast<const char*>(bytes_.data()) + position_, count);
    position_ += count;
    return result;
  }
  uint64_t number(size_t width) {  // little-endian
    uint64_t value = 0;
    const std::string_view digits = take(width);
    for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(digits[i]);
    return value;
  }
  int64_t long_number() {  // two's complement of any width
    const size_t width = number(1);
    if (width > 8)
      fail(
          "a whole number of {} bytes, at most 8 are read (not of a state dict): save only "
          "model.state_dict()",
          width);
    if (width == 0) return 0;
    const unsigned unused = 64 - 8 * static_cast<unsigned>(width);
    return static_cast<int64_t>(number(width) << unused) >> unused;
  }
  int64_t real_bits() {  // big-endian
    uint64_t bits = 0;
    for (const char digit : take(8)) bits = bits << 8 | static_cast<uint8_t>(digit);
    return static_cast<int64_t>(bits);
  }
  void frame(uint64_t size) {
    if (size > bytes_.size() - position_)
      fail("a frame of {} bytes leaves the pickle (truncated): copy it again", size);
  }

  // ---- stack
  void limit(size_t count, const char* what) const {
    if (count >= kValueLimit)
      fail("more than {} {} (hostile file?): save only model.state_dict()", kValueLimit, what);
  }
  void push_index(Index index) {
    limit(stack_.size(), "values on the stack");
    stack_.push_back(index);
  }
  void push(const Pickle::Value& value) {
    limit(values_.size(), "values");
    values_.push_back(value);
    push_index(static_cast<Index>(values_.size() - 1));
  }
  void push_number(Kind kind, int64_t value) {
    Pickle::Value result;
    result.kind = kind;
    result.number = value;
    push(result);
  }
  void push_text(uint64_t size) {
    Pickle::Value result;
    result.kind = Kind::text;
    result.text = take(size);
    if (find_utf8_error(result.text) != result.text.npos)
      fail("a text is not UTF-8 (damaged file): save it again");
    push(result);
  }
  void mark() {
    if (marks_.size() >= kMarkLimit)
      fail("containers nested deeper than {} (hostile file?): check its source", kMarkLimit);
    marks_.push_back(stack_.size());
  }
  /// The number of values above the last mark, which is taken away.
  size_t above_mark() {
    if (marks_.empty()) fail("a container without its mark (damaged pickle): save it again");
    const size_t count = stack_.size() - marks_.back();
    marks_.pop_back();
    return count;
  }
  /// The stack must hold `count` values above the last mark.
  void need(size_t count) const {
    if (stack_.size() - (marks_.empty() ? 0 : marks_.back()) < count)
      fail("needs {} values of the stack that are not there (damaged pickle): save it again", count);
  }
  Index pop() {
    need(1);
    const Index index = stack_.back();
    stack_.pop_back();
    return index;
  }

  // ---- containers
  /// Moves the topmost `count` values into a container.
  void take_into(Index container, size_t count) {
    for (size_t i = stack_.size() - count; i < stack_.size(); ++i) append(values_[container], stack_[i]);
    stack_.resize(stack_.size() - count);
  }
  void append(Pickle::Value& container, Index item) {
    limit(links_.size(), "items of containers");
    const uint32_t link = static_cast<uint32_t>(links_.size());
    links_.push_back({item, 0});
    if (container.count++ == 0)
      container.first = link;
    else
      links_[container.last].next = link;
    container.last = link;
    container.depth = std::max(container.depth, static_cast<uint8_t>(values_[item].depth + 1));
    if (container.depth > kDepthLimit)
      fail("containers nested deeper than {} (hostile file?): check its source", kDepthLimit);
  }
  /// Makes a container of the topmost `count` values.
  void push_of(Kind kind, size_t count) {
    need(count);
    Pickle::Value result;
    result.kind = kind;
    limit(values_.size(), "values");
    values_.push_back(result);
    const Index index = static_cast<Index>(values_.size() - 1);
    take_into(index, count);
    push_index(index);
  }
  void fill(Kind kind, size_t count) {
    need(count + 1);
    const Index container = stack_[stack_.size() - count - 1];
    if (values_[container].kind != kind)
      fail("items for a {}, not a {} (damaged pickle): save it again", kind_name(values_[container].kind),
           kind_name(kind));
    if (kind == Kind::dict && count % 2 != 0) fail("a key without its value (damaged pickle): save it again");
    take_into(container, count);
  }

  // ---- what Python would import and call
  void push_global(const std::string_view module, const std::string_view name) {
    if (module.size() + name.size() > kGlobalLimit || find_utf8_error(module) != module.npos ||
        find_utf8_error(name) != name.npos)
      fail("a name to import is too long or not UTF-8 (damaged or hostile file): check its source");
    const std::string full = fmt::format("{}.{}", module, name);
    check_(full, where_);
    // The checked names are few; each is stored once.
    const auto [known, fresh] = globals_.try_emplace(full, static_cast<Index>(values_.size()));
    if (!fresh) return push_index(known->second);
    Pickle::Value result;
    result.kind = Kind::global;
    result.text = known->first;
    push(result);
  }
  std::string_view line() {
    const std::string_view rest(reinterpret_cast<const char*>(bytes_.data()) + position_,
                                std::min(bytes_.size() - position_, kGlobalLimit));
    const size_t size = rest.find('\n');
    if (size == rest.npos)
      fail("a name to import does not end (truncated or hostile file): check its source");
    position_ += size + 1;
    return rest.substr(0, size);
  }
  void global() {
    const std::string_view module = line(), name = line();
    push_global(module, name);
  }
  void stack_global() {
    const Index name = pop(), module = pop();
    if (values_[name].kind != Kind::text || values_[module].kind != Kind::text)
      fail("a name to import is not text (damaged pickle): save it again");
    push_global(values_[module].text, values_[name].text);
  }
  /// OrderedDict() becomes a dict; everything else stays a call that is not made.
  void reduce() {
    need(2);
    const Index arguments = stack_.back(), callable = stack_[stack_.size() - 2];
    if (values_[callable].kind != Kind::global || values_[arguments].kind != Kind::tuple)
      fail("calls a {} (damaged or hostile pickle): check its source", kind_name(values_[callable].kind));
    if (values_[callable].text != "collections.OrderedDict") return push_of(Kind::call, 2);
    if (values_[arguments].count != 0)
      fail("an OrderedDict made of arguments, not of torch.save: save it again");
    stack_.resize(stack_.size() - 2);
    push_of(Kind::dict, 0);
  }
  /// Only a module's state_dict() has attributes (the versions of its layers), which say nothing of tensors.
  void build() {
    const Index state = pop();
    need(1);
    if (values_[stack_.back()].kind != Kind::dict || values_[state].kind != Kind::dict)
      fail("sets attributes of a {} (not of a state dict): save only model.state_dict()",
           kind_name(values_[stack_.back()].kind));
  }

  // ---- memo: Python's picklers number its slots in order, so a slot far away is no honest one
  void put(uint64_t slot) {
    need(1);
    limit(memo_.size(), "memo slots");
    if (slot > memo_.size())
      fail("memo slot {} before slot {} (damaged or hostile pickle): check its source", slot, memo_.size());
    if (slot == memo_.size())
      memo_.push_back(stack_.back());
    else
      memo_[slot] = stack_.back();
  }
  void get(uint64_t slot) {
    if (slot >= memo_.size()) fail("memo slot {} is empty (damaged pickle): save it again", slot);
    push_index(memo_[slot]);
  }

  std::vector<Pickle::Value>& values_;
  std::vector<Pickle::Link>& links_;
  std::map<std::string, Index>& globals_;
  std::span<const std::byte> bytes_;
  const std::string& where_;
  Pickle::GlobalCheck check_;
  uint64_t position_ = 0;
  bool stopped_ = false;
  std::vector<Index> stack_, memo_;
  std::vector<size_t> marks_;
};

const std::array<PickleMachine::Opcode, 35> PickleMachine::kOpcodes{{
    {'.', [](PickleMachine& m) { m.stopped_ = true; }},
    {'(', [](PickleMachine& m) { m.mark(); }},
    {'N', [](PickleMachine& m) { m.push({}); }},
    {0x88, [](PickleMachine& m) { m.push_number(Kind::boolean, 1); }},
    {0x89, [](PickleMachine& m) { m.push_number(Kind::boolean, 0); }},
    {'J', [](PickleMachine& m) { m.push_number(Kind::integer, static_cast<int32_t>(m.number(4))); }},
    {'K', [](PickleMachine& m) { m.push_number(Kind::integer, static_cast<int64_t>(m.number(1))); }},
    {'M', [](PickleMachine& m) { m.push_number(Kind::integer, static_cast<int64_t>(m.number(2))); }},
    {0x8a, [](PickleMachine& m) { m.push_number(Kind::integer, m.long_number()); }},
    {'G', [](PickleMachine& m) { m.push_number(Kind::real, m.real_bits()); }},
    {'X', [](PickleMachine& m) { m.push_text(m.number(4)); }},
    {0x8c, [](PickleMachine& m) { m.push_text(m.number(1)); }},
    {0x8d, [](PickleMachine& m) { m.push_text(m.number(8)); }},
    {')', [](PickleMachine& m) { m.push_of(Kind::tuple, 0); }},
    {0x85, [](PickleMachine& m) { m.push_of(Kind::tuple, 1); }},
    {0x86, [](PickleMachine& m) { m.push_of(Kind::tuple, 2); }},
    {0x87, [](PickleMachine& m) { m.push_of(Kind::tuple, 3); }},
    {'t', [](PickleMachine& m) { m.push_of(Kind::tuple, m.above_mark()); }},
    {']', [](PickleMachine& m) { m.push_of(Kind::list, 0); }},
    {'a', [](PickleMachine& m) { m.fill(Kind::list, 1); }},
    {'e', [](PickleMachine& m) { m.fill(Kind::list, m.above_mark()); }},
    {'}', [](PickleMachine& m) { m.push_of(Kind::dict, 0); }},
    {'s', [](PickleMachine& m) { m.fill(Kind::dict, 2); }},
    {'u', [](PickleMachine& m) { m.fill(Kind::dict, m.above_mark()); }},
    {'c', [](PickleMachine& m) { m.global(); }},
    {0x93, [](PickleMachine& m) { m.stack_global(); }},
    {'R', [](PickleMachine& m) { m.reduce(); }},
    {'b', [](PickleMachine& m) { m.build(); }},
    {'Q', [](PickleMachine& m) { m.push_of(Kind::persistent, 1); }},
    {'q', [](PickleMachine& m) { m.put(m.number(1)); }},
    {'r', [](PickleMachine& m) { m.put(m.number(4)); }},
    {0x94, [](PickleMachine& m) { m.put(m.memo_.size()); }},
    {'h', [](PickleMachine& m) { m.get(m.number(1)); }},
    {'j', [](PickleMachine& m) { m.get(m.number(4)); }},
    {0x95, [](PickleMachine& m) { m.frame(m.number(8)); }},
}};

Pickle::Pickle(std::span<const std::byte> bytes, const std::string& where, GlobalCheck check) {
  root_ = PickleMachine(*this, bytes, where, check).run();
}

double Pickle::real(Index value) const {
  return std::bit_cast<double>(values_[value].number);
}

std::vector<Pickle::Index> Pickle::items(Index container) const {
  const Value& value = values_[container];
  std::vector<Index> result;
  result.reserve(value.count);
  uint32_t link = value.first;
  for (uint32_t i = 0; i < value.count; ++i, link = links_[link].next) result.push_back(links_[link].value);
  return result;
}

const char* kind_name(Pickle::Kind kind) {
  constexpr const char* kNames[] = {"None",
                                    "bool",
                                    "int",
                                    "float",
                                    "str",
                                    "tuple",
                                    "list",
                                    "dict",
                                    "global name",
                                    "called object",
                                    "persistent object"};
  return kNames[static_cast<size_t>(kind)];
}

}  // namespace surgery
