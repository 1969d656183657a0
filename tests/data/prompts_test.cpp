#include "data/prompts.h"

#include "base/utf8.h"
#include "test_clips.h"

namespace surgery {
namespace {

using Prompts = DataTest;

TEST(Utf8, IllFormedBytesAreFound) {
  constexpr size_t fine = std::string_view::npos;
  EXPECT_EQ(find_utf8_error("plain, \xC3\xA9, \xE4\xBA\xBA, \xF0\x9F\x90\x88"), fine);
  EXPECT_EQ(find_utf8_error(""), fine);
  EXPECT_EQ(find_utf8_error("ab\xFF"), 2u);
  EXPECT_EQ(find_utf8_error("\xC0\xAF"), 0u) << "overlong";
  EXPECT_EQ(find_utf8_error("\xE0\x80\xAF"), 0u) << "overlong";
  EXPECT_EQ(find_utf8_error("a\xED\xA0\x80"), 1u) << "surrogate";
  EXPECT_EQ(find_utf8_error("\xF4\x90\x80\x80"), 0u) << "beyond Unicode";
  EXPECT_EQ(find_utf8_error("a\xE4\xBA"), 1u) << "cut short";
  EXPECT_EQ(find_utf8_error("a\xE9t\xE9"), 1u) << "Latin-1";
}

TEST_F(Prompts, OnePromptALine) {
  write("p.txt",
        "\xEF\xBB\xBF"
        "a cat\n\n  a dog \r\n \t \na \xE4\xBA\xBA\nlast");
  const auto prompts = read_prompts(file("p.txt"));
  const std::vector<Prompt> expected{
      {"a cat", "a cat"}, {"a dog", "a dog"}, {"a \xE4\xBA\xBA", "a \xE4\xBA\xBA"}, {"last", "last"}};
  EXPECT_EQ(prompts, expected);
}

TEST_F(Prompts, AnExtendedPromptIsEncodedUnderTheOriginalsName) {
  write("p.txt", "a cat\n\na dog\na cow\n");
  write("e.txt", "A fluffy cat sits.\n\n\nA spotted cow grazes.\n\n");
  const std::vector<Prompt> expected{
      {"a cat", "A fluffy cat sits."}, {"a dog", "a dog"}, {"a cow", "A spotted cow grazes."}};
  EXPECT_EQ(read_prompts(file("p.txt"), file("e.txt")), expected);
  write("t.txt", "a cat\tA fluffy cat sits.\na dog\na cow\t A spotted cow grazes.\n");
  EXPECT_EQ(read_prompts(file("t.txt")), expected);
}

TEST_F(Prompts, FilesThatAreNotParallelAreRefused) {
  write("p.txt", "a cat\n\na dog\n");
  write("long.txt", "1\n\n3\n4\n");
  expect_failure([&] { read_prompts(file("p.txt"), file("long.txt")); }, ExitCode::data,
                 {"long.txt", "4 lines", "p.txt has 3"});
  write("shifted.txt", "1\n2\n");
  expect_failure([&] { read_prompts(file("p.txt"), file("shifted.txt")); }, ExitCode::data,
                 {"shifted.txt: line 2", "blank in"});
}

TEST_F(Prompts, BadListsNameTheLine) {
  const auto read = [&](const std::string& content) {
    write("p.txt", content);
    return [this] { read_prompts(file("p.txt")); };
  };
  expect_failure(read("a cat\na caf\xE9\n"), ExitCode::data, {"p.txt: line 2 is not UTF-8 at byte 6"});
  expect_failure(read(std::string("a\nb\0c\n", 6)), ExitCode::data, {"line 2", "NUL"});
  expect_failure(read("a\tb\tc\n"), ExitCode::data, {"line 1", "more than one tab"});
  expect_failure(read("\n \n\n"), ExitCode::data, {"holds no prompt"});
  expect_failure(read(""), ExitCode::data, {"holds no prompt"});
  expect_failure(read(std::string(100000, 'x')), ExitCode::data, {"line 1 has 100000 bytes"});
  expect_failure([&] { read_prompts(file("none.txt")); }, ExitCode::io, {"none.txt", "no such prompt list"});
}

}  // namespace
}  // namespace surgery
