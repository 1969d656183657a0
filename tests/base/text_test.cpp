#include "base/text.h"

#include <gtest/gtest.h>

namespace surgery {
namespace {

TEST(ParseNumber, TakesAWholeNumberOrNothing) {
  EXPECT_EQ(parse_number<int64_t>("17"), 17);
  EXPECT_EQ(parse_number<int64_t>("-3"), -3);
  EXPECT_EQ(parse_number<double>("1.5e3"), 1500.0);
  for (const char* text : {"", " 17", "17 ", "17x", "+17", "1.5", "9223372036854775808"})
    EXPECT_FALSE(parse_number<int64_t>(text)) << text;
}

TEST(Split, GivesOnePartMoreThanSeparators) {
  EXPECT_EQ(split("a,b,,c", ','), (std::vector<std::string>{"a", "b", "", "c"}));
  EXPECT_EQ(split("a,", ','), (std::vector<std::string>{"a", ""}));
  EXPECT_EQ(split("", ','), std::vector<std::string>{""});
}

TEST(WithoutSpaces, DropsThemAll) {
  EXPECT_EQ(without_spaces(" 1, 2 =linear "), "1,2=linear");
}

TEST(Trimmed, KeepsWhatLiesBetween) {
  EXPECT_EQ(trimmed(" \ta b\t "), "a b");
  EXPECT_EQ(trimmed("a"), "a");
  EXPECT_EQ(trimmed(" \t"), "");
  EXPECT_EQ(trimmed(" a\r\n", " \r"), "a\r\n");
}

TEST(FirstRepeated, NamesOneThatIsThereTwice) {
  EXPECT_EQ(first_repeated({"b", "a", "b"}), "b");
  EXPECT_EQ(first_repeated({"a", "b"}), std::nullopt);
  EXPECT_EQ(first_repeated({}), std::nullopt);
}

}  // namespace
}  // namespace surgery
