#include "storage/pickle.h"

#include <gtest/gtest.h>

#include "test_folder.h"
#include "torch_archive.h"

namespace surgery {
namespace {

using Kind = Pickle::Kind;

void only_ordered_dict(std::string_view name, const std::string& where) {
  VALIDATE(name == "collections.OrderedDict" || name == "m.f", "{}: wants to import {}", where, name);
}
Pickle read(const std::string& bytes) {
  return Pickle(std::as_bytes(std::span(bytes)), "a.pkl", only_ordered_dict);
}
void expect_refused(const std::string& bytes, const std::string& message) {
  expect_error(ExitCode::data, message, [&] { read(bytes); });
}
std::string repeated(const std::string& ops, size_t times) {
  std::string all;
  for (size_t i = 0; i < times; ++i) all += ops;
  return all;
}

TEST(Pickle, PlainValuesOfEveryOpcode) {
  using Row = std::pair<std::string, int64_t>;
  for (const auto& [ops, value] :
       {Row{"J" + little(0xFFFFFFFE, 4), -2}, Row{"K\xff", 255}, Row{"M" + little(0xFFFF, 2), 65535},
        Row{little(0x8a, 1) + little(0, 1), 0}, Row{"\x8a\x01\xff", -1}, Row{"\x8a\x02\xff\x7f", 32767},
        Row{int_op(INT64_MIN), INT64_MIN}}) {
    const std::string bytes = pickle_of(ops);
    const Pickle pickle = read(bytes);
    EXPECT_EQ(pickle.kind(pickle.root()), Kind::integer);
    EXPECT_EQ(pickle.integer(pickle.root()), value);
  }
  for (const std::string& ops :
       {text_op("né"), "\x8c\x03" + std::string("né"), "\x8d" + little(3, 8) + "né"}) {
    const std::string bytes = pickle_of(ops);
    const Pickle pickle = read(bytes);
    EXPECT_EQ(pickle.kind(pickle.root()), Kind::text);
    EXPECT_EQ(pickle.text(pickle.root()), "né");
  }
  const std::string real = pickle_of("G\x3f\xf8" + little(0, 6));
  EXPECT_EQ(read(real).real(0), 1.5);
  EXPECT_EQ(read(pickle_of("N")).kind(0), Kind::none);
  EXPECT_EQ(read(pickle_of("\x88")).integer(0), 1);
  EXPECT_EQ(read(pickle_of("\x89")).integer(0), 0);
}

TEST(Pickle, ContainersKeepTheirOrder) {
  const auto values = [](const std::string& ops) {
    const std::string bytes = pickle_of(ops);
    const Pickle pickle = read(bytes);
    std::vector<int64_t> result;
    for (const Pickle::Index item : pickle.items(pickle.root())) result.push_back(pickle.integer(item));
    EXPECT_EQ(pickle.size(pickle.root()), result.size());
    return result;
  };
  using Values = std::vector<int64_t>;
  EXPECT_EQ(values(")"), Values{});
  EXPECT_EQ(values("K\1\x85"), Values{1});
  EXPECT_EQ(values("K\1K\2\x86"), (Values{1, 2}));
  EXPECT_EQ(values("K\1K\2K\3\x87"), (Values{1, 2, 3}));
  EXPECT_EQ(values("(K\1K\2K\3K\4t"), (Values{1, 2, 3, 4}));
  EXPECT_EQ(values("]K\1a(K\2K\3e"), (Values{1, 2, 3}));
  EXPECT_EQ(values("}K\1K\2s(K\3K\4K\5K\6u"), (Values{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(values("ccollections\nOrderedDict\n)RK\1K\2s"), (Values{1, 2}));
  EXPECT_EQ(values("\x8c\x0b"
                   "collections\x8c\x0bOrderedDict\x93)RK\1K\2s"),
            (Values{1, 2}));
  EXPECT_EQ(values("]q" + little(0, 1) + "(K\7h" + little(0, 1) + "e").size(), 2u)
      << "a list that holds itself";
}

TEST(Pickle, TheMemoServesEveryProtocol) {
  for (const std::string& put : {"q" + little(0, 1), "r" + little(0, 4), std::string("\x94")})
    for (const std::string& get : {"h" + little(0, 1), "j" + little(0, 4)}) {
      const std::string bytes = pickle_of("K\7" + put + get + "\x86");
      const Pickle pickle = read(bytes);
      const auto items = pickle.items(pickle.root());
      EXPECT_EQ(items[0], items[1]);
    }
  expect_refused(pickle_of("N" + std::string("j") + little(0, 4) + "\x86"), "memo slot 0 is empty");
  expect_refused(pickle_of("Nr" + little(0xFFFFFFFF, 4)), "memo slot 4294967295 before slot 0");
  expect_refused(pickle_of("\x94"), "stack");
}

TEST(Pickle, CallsAreKeptNotMade) {
  const std::string bytes = pickle_of("cm\nf\nK\1\x85R");
  const Pickle pickle = read(bytes);
  ASSERT_EQ(pickle.kind(pickle.root()), Kind::call);
  const auto parts = pickle.items(pickle.root());
  EXPECT_EQ(pickle.text(parts[0]), "m.f");
  EXPECT_EQ(pickle.size(parts[1]), 1u);
}

TEST(Pickle, ForbiddenNamesAreRefused) {
  const std::string run = text_op("touch /tmp/owned") + "\x85R";
  expect_refused(pickle_of("cos\nsystem\n" + run), "wants to import os.system");
  expect_refused(pickle_of("cposix\nsystem\n" + run), "wants to import posix.system");
  expect_refused(pickle_of("cbuiltins\neval\n" + run), "wants to import builtins.eval");
  expect_refused(pickle_of(text_op("os") + text_op("system") + "\x93" + run), "wants to import os.system");
  expect_refused(pickle_of("ccollections\nOrderedDict.__init__\n"), "OrderedDict.__init__");
  expect_refused(pickle_of("K\1K\2\x93"), "is not text");
  expect_refused(pickle_of("c" + std::string(300, 'm') + "\nf\n"), "does not end");
  expect_refused(pickle_of("cm\nf"), "does not end");
  expect_refused(pickle_of("c\xff\nf\n"), "not UTF-8");
  // Other ways to make Python call something.
  for (const std::string& ops :
       {std::string("(cos\nsystem\no"), std::string("(ios\nsystem\n"), ")\x81" + std::string(),
        std::string("\x82\x01"), std::string("P0\n"), std::string("\x92")})
    expect_refused(pickle_of(ops), "");
  expect_refused(pickle_of("(ios\nsystem\n"), "opcode 0x69");
  expect_refused(pickle_of("N)R"), "calls a None");
  expect_refused(pickle_of("cm\nf\nNR"), "calls a");
  expect_refused(pickle_of("ccollections\nOrderedDict\nK\1\x85R"), "made of arguments");
}

TEST(Pickle, AttributesOfStateDictsAreIgnoredOthersRefused) {
  const std::string bytes = pickle_of("}" + std::string("}") + text_op("_metadata") + "}sb");
  EXPECT_EQ(read(bytes).kind(0), Kind::dict);
  expect_refused(pickle_of("cm\nf\n)R}b"), "sets attributes of a called object");
  expect_refused(pickle_of("}Nb"), "sets attributes");
  expect_refused(pickle_of("}b"), "stack");
}

TEST(Pickle, BombsAreRefused) {
  expect_refused(pickle_of(repeated("]", 100'000) + repeated("a", 99'999)), "nested deeper than 32");
  expect_refused(pickle_of(")" + repeated("\x85", 100'000)), "nested deeper than 32");
  expect_refused(pickle_of(repeated("(", 100'000)), "nested deeper than 64");
  expect_refused(pickle_of(repeated("cm\nf\n(", 100'000)), "nested deeper than 64");
  expect_refused(pickle_of("N" + repeated("\x94", 3'000'000)), "more than 2000000 memo slots");
  expect_refused(pickle_of(repeated("N", 3'000'000)), "more than 2000000 values");
  expect_refused(pickle_of("Nq" + little(0, 1) + "(" + repeated("h" + little(0, 1), 3'000'000) + "t"),
                 "more than 2000000 values on the stack");
  expect_refused(pickle_of("]" + repeated("(" + repeated("N", 1000) + "e0", 1)), "opcode");
  expect_refused(pickle_of("X" + little(0xFFFFFFFF, 4)), "ends before");
  expect_refused(pickle_of("\x8d" + little(UINT64_MAX, 8)), "ends before");
  expect_refused(pickle_of("\x95" + little(UINT64_MAX, 8)), "leaves the pickle");
  expect_refused("\x80\x02" + std::string(64 << 20, 'N'), "more than a state dict needs");
  expect_refused(pickle_of("\x8a\x09" + little(1, 8) + "0"), "at most 8");
}

TEST(Pickle, DamagedOnesAreRefused) {
  const std::string whole =
      pickle_of(dict_op(text_op("w") + tensor_op(storage_op("FloatStorage", "0", 4), 0, {2, 2}, {2, 1})));
  const auto any = [](std::string_view, const std::string&) {};
  for (size_t length = 0; length < whole.size(); ++length)
    expect_error(ExitCode::data,
                 "a.pkl: ", [&] { Pickle(std::as_bytes(std::span(whole).first(length)), "a.pkl", any); });
  expect_refused(whole, "wants to import torch._utils._rebuild_tensor_v2");
  expect_refused(".", "does not begin like a pickle");
  expect_refused("\x80\x01N.", "pickle protocol 1");
  expect_refused("\x80\x06N.", "pickle protocol 6");
  expect_refused(pickle_of(""), "leaves 0 values");
  expect_refused(pickle_of("NN"), "leaves 2 values");
  expect_refused(pickle_of("(N"), "leaves 1 values");
  expect_refused(pickle_of("N") + "N.", "and 2 bytes behind");
  expect_refused(pickle_of("t"), "without its mark");
  expect_refused(pickle_of("N(\x85"), "stack");
  expect_refused(pickle_of("N(a"), "stack");
  expect_refused(pickle_of("NNa"), "items for a None, not a list");
  expect_refused(pickle_of("]NNs"), "items for a list, not a dict");
  expect_refused(pickle_of("}(Nu"), "a key without its value");
  expect_refused(pickle_of(text_op("\xff")), "not UTF-8");
  expect_refused(pickle_of("Q"), "stack");
}

}  // namespace
}  // namespace surgery
