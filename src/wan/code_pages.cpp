#include "wan/code_pages.h"

#include <array>

namespace surgery {
namespace {

constexpr std::u32string_view kWindows1252 = U"€.‚ƒ„…†‡ˆ‰Š‹Œ.Ž..‘’“”•–—˜™š›œ.žŸ";
constexpr std::u32string_view kWindows1251 =
    U"ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—.™љ›њќћџ.ЎўЈ.Ґ..Ё.Є....Ї..Ііґ...ё№є.јЅѕї"
    U"АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯабвгдежзийклмнопрстуфхцчшщъыьэюя";
constexpr std::u32string_view kWindows1250 =
    U"€.‚.„…†‡.‰Š‹ŚŤŽŹ.‘’“”•–—.™š›śťžź.ˇ˘Ł.Ą....Ş....Ż..˛ł.....ąş.Ľ˝ľż"
    U"Ŕ..Ă.ĹĆ.Č.Ę.Ě..ĎĐŃŇ..Ő..ŘŮ.Ű..Ţ.ŕ..ă.ĺć.č.ę.ě..ďđńň..ő..řů.ű..ţ˙";
constexpr std::u32string_view kWindows1253 =
    U"€.‚ƒ„…†‡.‰.‹.....‘’“”•–—.™.›.....΅Ά............―....΄...ΈΉΊ.Ό.ΎΏ"
    U"ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡ.ΣΤΥΦΧΨΩΪΫάέήίΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώ";
constexpr std::u32string_view kWindows1254 =
    U"€.‚ƒ„…†‡ˆ‰Š‹Œ....‘’“”•–—˜™š›œ..Ÿ................................"
    U"................Ğ............İŞ.................ğ............ış";
constexpr std::u32string_view kWindows1257 =
    U"€.‚.„…†‡.‰.‹.¨ˇ¸.‘’“”•–—.™.›.¯˛.........Ø.Ŗ....Æ........ø.ŗ....æ"
    U"ĄĮĀĆ..ĘĒČ.ŹĖĢĶĪĻŠŃŅ.Ō...ŲŁŚŪ.ŻŽ.ąįāć..ęēč.źėģķīļšńņ.ō...ųłśū.żž˙";
constexpr std::u32string_view kIso8859_2 =
    U".................................Ą˘Ł.ĽŚ..ŠŞŤŹ.ŽŻ.ą˛ł.ľśˇ.šşťź˝žż"
    U"Ŕ..Ă.ĹĆ.Č.Ę.Ě..ĎĐŃŇ..Ő..ŘŮ.Ű..Ţ.ŕ..ă.ĺć.č.ę.ě..ďđńň..ő..řů.ű..ţ˙";
constexpr std::u32string_view kMacRoman =
    U"ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü†°..§•¶ß®.™´¨≠ÆØ∞.≤≥¥.∂∑∏π∫ªºΩæø"
    U"¿¡¬√ƒ≈∆«»…\u00A0ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\uF8FFÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
constexpr std::u32string_view kPc437 =
    U"ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐"
    U"└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u00A0";
constexpr std::array<CodePage, 10> kPages{{{U"", false, true},
                                           {kWindows1252, true, true},
                                           {kWindows1251, true, true},
                                           {kWindows1250, true, true},
                                           {kWindows1253, true, true},
                                           {kWindows1254, true, true},
                                           {kWindows1257, true, true},
                                           {kIso8859_2, false, true},
                                           // An en dash and a space, quite usual, would look like one.
                                           {kMacRoman, false, false},
                                           {kPc437, false, true}}};
constexpr size_t kWindowsPages = 7;
constexpr char32_t kSubstitute = 0x1A, kReplacement = 0xFFFD;

}  // namespace

char32_t CodePage::character(char32_t byte) const {
  if (open_bytes && byte == kSubstitute) return kReplacement;
  if (byte < 0x80 || byte - 0x80 >= upper.size() || upper[byte - 0x80] == U'.') return byte;
  return upper[byte - 0x80];
}

std::optional<char32_t> CodePage::byte(char32_t wanted) const {
  if (wanted < 0x100 && character(wanted) == wanted) return wanted;
  if (open_bytes && wanted == kReplacement) return kSubstitute;
  if (wanted < 0x80) return std::nullopt;
  const size_t at = upper.find(wanted);
  if (at == std::u32string_view::npos) return std::nullopt;
  return static_cast<char32_t>(0x80 + at);
}

std::optional<std::u32string> CodePage::encode(std::u32string_view text) const {
  std::u32string bytes;
  for (const char32_t wanted : text) {
    const auto one = byte(wanted);
    if (!one) return std::nullopt;
    bytes += *one;
  }
  return bytes;
}

std::span<const CodePage> code_pages() {
  return kPages;
}

std::u32string windows_characters(char32_t first, char32_t last) {
  std::u32string characters;
  for (const CodePage& page : code_pages().first(kWindowsPages))
    for (char32_t byte = first; byte <= last; ++byte) characters += page.character(byte);
  return characters;
}

}  // namespace surgery
