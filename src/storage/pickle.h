#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace surgery {

/// A Python pickle read as data: nothing is imported and nothing is called. What the pickle would call is
/// kept as a `call` of a named global, for the reader above to understand or to refuse.
///
/// The opcodes are those by which torch.save writes state dicts in protocols 2 to 5; any other is refused.
/// Values lie in one array and refer to each other by index, so that no depth of nesting costs stack, and a
/// value that contains itself costs nothing. Their number, their depth and the memo are bounded: memory is in
/// proportion to the pickle, and at most some 200 MB.
/// (Source: Python's Lib/pickletools.py.)
class Pickle {
 public:
  using Index = uint32_t;
  enum class Kind : uint8_t {
    none,
    boolean,
    integer,
    real,
    text,
    tuple,
    list,
    dict,
    global,
    call,
    persistent
  };
  /// Throws Error{data} for a global ("module.name") that the pickle may not name.
  using GlobalCheck = void (*)(std::string_view global, const std::string& where);

  /// Reads a whole pickle, whose bytes must outlive this object. `where` begins messages. Throws Error{data}.
  Pickle(std::span<const std::byte> bytes, const std::string& where, GlobalCheck check);

  Pickle(const Pickle&) = delete;
  Pickle& operator=(const Pickle&) = delete;

  Index root() const { return root_; }
  Kind kind(Index value) const { return values_[value].kind; }
  int64_t integer(Index value) const { return values_[value].number; }  ///< of integers and booleans
  double real(Index value) const;
  std::string_view text(Index value) const {
    return values_[value].text;
  }  ///< of texts and globals (full name)
  /// Values in a container: 2 for each key of a dict, 2 of a call (callable, arguments), 1 of a persistent
  /// id.
  uint32_t size(Index value) const { return values_[value].count; }
  /// Those values, copied; a dict's are key, value, key, value.
  std::vector<Index> items(Index container) const;

 private:
  friend class PickleMachine;
  struct Value {
    Kind kind = Kind::none;
    uint8_t depth = 0;                        // containers within containers below it when it was filled
    uint32_t count = 0, first = 0, last = 0;  // its items: how many; the ends of their chain in links_
    int64_t number = 0;                       // a real's bits
    std::string_view text;
  };
  struct Link {
    Index value;
    uint32_t next;
  };
  std::vector<Value> values_;
  std::vector<Link> links_;
  std::map<std::string, Index> globals_;  // full names; values refer to these texts
  Index root_ = 0;
};

const char* kind_name(Pickle::Kind kind);  ///< in Python's words, for messages

}  // namespace surgery
