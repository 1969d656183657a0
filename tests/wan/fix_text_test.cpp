// One example of each repair by name; tests/parity/clean_prompt_parity_test.py compares whole corpora with
// ftfy.
#include "wan/fix_text.h"

#include <gtest/gtest.h>

#include "base/utf8.h"
#include "wan/character_pattern.h"
#include "wan/code_pages.h"
#include "wan/html_entities.h"
#include "wan/mojibake.h"

namespace surgery {
namespace {

TEST(FixText, LeavesPlainTextAlone) {
  for (const char* text : {"", "A dog runs along a beach.", "Zażółć gęślą jaźń", "夕焼けの海辺を犬が走る",
                           "Ένας σκύλος", "naïve façade, 20 °C, ½ cup", "5 < 6 & 7 > 3", "😀👍🏽"})
    EXPECT_EQ(fix_text(text), text);
}

TEST(FixText, UndoesMisreadUtf8) {
  EXPECT_EQ(fix_text("itâ€™s a cafÃ©"), "it's a café") << "Windows-1252";
  EXPECT_EQ(fix_text("Ã\u00A9tÃ\u00A9"), "été") << "Latin-1";
  EXPECT_EQ(fix_text("ï¼Œä¸\u00ADæ–‡"), ",中文") << "and then full width";
  EXPECT_EQ(fix_text("Ã¢â‚¬Å“twiceÃ¢â‚¬\u009D"), "\"twice\"");
  EXPECT_EQ(fix_text("РџСЂРёРІРµС‚ РјРёСЂ"), "Привет мир") << "Windows-1251";
  EXPECT_EQ(fix_text("caf√© ‚Äì bar"), "café – bar") << "Mac Roman";
  EXPECT_EQ(fix_text("voilÃ  le travail, Ã la carte"), "voilà le travail, à la carte") << "A0 became a space";
  EXPECT_EQ(fix_text("â€œlost â€\uFFFD"), "\"lost \uFFFD");
  EXPECT_EQ(fix_text("漢字 and cafÃ©"), "漢字 and café") << "a part of the text";
}

TEST(FixText, TakesC1ControlsForWindows1252) {
  EXPECT_EQ(fix_text("\u0093x\u0094 \u0085"), "\"x\" …");
}

TEST(FixText, StraightensWhatIsTypographic) {
  EXPECT_EQ(fix_text("‘a’ “b” ‛c‟"), "'a' \"b\" 'c\"");
  EXPECT_EQ(fix_text("ﬁne ﬂuﬃ ĳ Ǆ ŉ"), "fine fluffi ij DŽ 'n");
  EXPECT_EQ(fix_text("ＡＢＣ　１，！ ﾊﾟﾀﾞ"), "ABC 1,! パダ");
  EXPECT_EQ(fix_text("cafe\u0301"), "café") << "normal form C";
}

TEST(FixText, RemovesWhatIsNotText) {
  EXPECT_EQ(fix_text("\uFEFFa\x01\x07\x7F\u206A\uFFF9z"), "az");
  EXPECT_EQ(fix_text(std::string("a\0b", 3)), "ab");
  EXPECT_EQ(fix_text("\x1B[36;44mblue\x1B[0m"), "blue");
  EXPECT_EQ(fix_text("a\r\nb\rc\u2028d\u2029e"), "a\nb\nc\nd\ne");
}

TEST(FixText, UnescapesHtmlUntilATagIsSeen) {
  EXPECT_EQ(fix_text("P&eacute;rez &EACUTE; STRA&SZLIG;E &#x41;&amp;amp;"), "Pérez É STRASSE A&");
  EXPECT_EQ(fix_text("&eacute;\n<b>&eacute;</b>\n&eacute;"), "é\n<b>&eacute;</b>\n&eacute;");
  EXPECT_EQ(fix_text("&copy &notit; this&not that"), "&copy &notit; this&not that") << "';' is needed";
}

TEST(UnescapeClosedEntities, FollowsFtfy) {
  EXPECT_EQ(unescape_closed_entities("&nTILDE; &NTILDE; &Ntilde;"), "&nTILDE; Ñ Ñ");
  EXPECT_EQ(unescape_closed_entities("&#x3b; &#59; && &; &#; & amp;"), "&#x3b; &#59; && &; &#; & amp;");
}

TEST(LooksLikeMojibake, KnowsTheNeighboursThatShowIt) {
  for (const char32_t* text : {U"Ã©t", U"â€™", U"\x80", U"Â°C", U"вЂњ", U"√©", U"Ã la"})
    EXPECT_TRUE(looks_like_mojibake(text)) << to_utf8(text);
  for (const char32_t* text : {U"été", U"Ångström", U"São", U"à la", U"£5", U"Привет", U"«oui»", U"Œuvre"})
    EXPECT_FALSE(looks_like_mojibake(text)) << to_utf8(text);
}

TEST(CodePage, EncodesWhatItDecodes) {
  ASSERT_EQ(code_pages().size(), 10u);
  for (const CodePage& page : code_pages())
    for (char32_t byte = 0; byte < 0x100; ++byte) EXPECT_EQ(page.byte(page.character(byte)), byte);
  EXPECT_EQ(code_pages()[1].character(0x80), U'€');
  EXPECT_EQ(code_pages()[1].character(0x81), char32_t{0x81});
  EXPECT_EQ(code_pages()[2].encode(U"Привет"), U"\xCF\xF0\xE8\xE2\xE5\xF2");
  EXPECT_FALSE(code_pages()[1].encode(U"漢").has_value());
}

TEST(CharacterSet, ReadsRangesAndTheirComplement) {
  const CharacterSet set = U"a-cz", rest = ~set;
  for (const char32_t c : std::u32string_view(U"abcz")) EXPECT_TRUE(set.contains(c) && !rest.contains(c));
  for (const char32_t c : std::u32string_view(U"`dy{-\0")) EXPECT_TRUE(!set.contains(c) && rest.contains(c));
  EXPECT_TRUE((set | CharacterSet(U"d-y")).contains(U'm'));
  EXPECT_TRUE(CharacterSet::word().contains(U'é') && CharacterSet::word().contains(U'_'));
  EXPECT_FALSE(CharacterSet::word().contains(U'-'));
  EXPECT_TRUE(CharacterSet::space().contains(0x3000) && !CharacterSet::space().contains(0x200B));
}

}  // namespace
}  // namespace surgery
