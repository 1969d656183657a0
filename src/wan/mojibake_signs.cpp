// Which neighbours among the some 400 characters that misread UTF-8 is made of show that it is misread: the
// rules of ftfy 6.3's heuristic.
#include "wan/character_pattern.h"
#include "wan/mojibake.h"

namespace surgery {
namespace {

struct Kinds {
  const CharacterSet common = U"\u00A0\u00AD·´–—―…’";
  const CharacterSet c1 = U"\x80-\x9f";
  const CharacterSet bad = U"¦¤¨¬¯¸ƒˆˇ\u02D8˛˜†‡‰⌐◊\uFFFDªº";
  const CharacterSet law = U"¶§";
  const CharacterSet currency = U"¢£¥₧€";
  const CharacterSet start = U"¡«¿©΄΅‘‚“„•‹\uF8FF";
  const CharacterSet end = U"®»˝”›™";
  const CharacterSet number = U"²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№";
  const CharacterSet kaomoji = U"Ò-ÖÙ-Üò-öø-üŐŌŪŲ°";
  const CharacterSet upper = U"À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ";
  const CharacterSet lower = U"ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ";
  const CharacterSet upper_common = U"ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я";
  const CharacterSet lower_common = U"α-ωάέήίΰа-џ";
  const CharacterSet box = U"│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓";
  const CharacterSet latin = U"A-Za-z", small = U"a-z", blank = U" ", any = ~CharacterSet(U"\n");
  const CharacterSet letter = lower | upper;
};

std::vector<CharacterPattern> general_rules(const Kinds& k) {
  const CharacterSet beside_bad = k.letter | k.box | k.start | k.end | k.currency | k.number | k.law;
  return {
      {k.c1},
      {k.bad | beside_bad, k.bad},
      {k.latin, k.lower_common | k.upper_common, k.bad},
      {k.bad, beside_bad},
      {k.lower | k.lower_common | k.box | k.end | k.currency | k.number, k.upper},
      {k.box | k.end | k.currency | k.number, k.lower},
      {k.lower | k.box | k.end, k.currency},
      {CharacterSet::space(), k.upper, k.currency},
      {k.upper | k.box, k.number | k.law},
      {k.letter | k.box | k.currency | k.end, k.start, k.number},
      {k.letter | k.currency | k.number | k.box | k.law, k.end, k.start},
      {k.currency | k.number | k.box, k.start},
      {k.small, k.upper, k.start | k.currency},
      {k.box, k.kaomoji},
      {k.letter | k.currency | k.number | k.start | k.end | k.law, k.box},
      {k.box, k.end},
      {k.letter, k.start | k.end, CharacterSet::word()},
  };
}

/// Sequences that one code page in particular makes of common characters.
std::vector<CharacterPattern> page_rules(const Kinds& k) {
  const CharacterSet arabic_lead = U"ØÙ", cyrillic = U"ВГРС", greek = U"ΒΓΞΟ", a_lead = U"ÃÂ";
  const CharacterSet arabic = k.common | k.currency | k.bad | k.number | k.start | U"ŸŠ®°µ»";
  return {
      {U"Œœ", ~k.latin},
      {k.upper, U"°"},
      // Windows-1252: two bytes, Arabic, South Asian alphabets.
      {U"ÂÃÎÐ", k.start | k.end | U"€œŠš¢£Ÿž\u00A0\u00AD®©°·»–—´"},
      {U"×", U"²³"},
      {arabic_lead, arabic, arabic_lead, arabic},
      {U"à", U"²µ¹¼½¾"},
      // Mac Roman.
      {U"√", U"±∂†≠®™´≤≥¥µø"},
      {U"≈", U"°¢"},
      {U"‚", U"Ä", U"ìîïòôúùû†°¢π"},
      {U"‚", U"âó", U"àä°ê"},
      // Windows-1251, on its own and on top of Windows-1252.
      {U"в", U"Ђ"},
      {cyrillic, k.c1 | k.bad | k.start | k.end | k.currency | U"°µ", cyrillic},
      {U"Г", U"ў", U"В", U"Ђ", U"В", k.any, U"A-Za-z "},
      // Windows-1252 of a-grave, a-acute and the no-break space, also where that became a space.
      {U"Ã", U"\u00A0¡"},
      {k.small, CharacterSet::space(), a_lead, k.blank},
      {k.small, a_lead, k.blank},
      {k.end | U"a-z.,?!", U"Â", k.start | k.end | U" "},
      // Windows-1253 and 1257.
      {U"β", U"€", U"™\u00A0Ά\u00AD®°"},
      {greek, k.c1 | k.bad | k.start | k.end | k.currency | U"°", greek},
      {U"ā", U"€"},
  };
}

}  // namespace

bool looks_like_mojibake(std::u32string_view text) {
  static const Kinds kinds;
  static const std::vector<CharacterPattern> general = general_rules(kinds), pages = page_rules(kinds);
  static const std::vector<CharacterPattern> at_start{{U"ÃÂ", U" "}};
  return matches_anywhere(general, text) || matches_anywhere(pages, text) || match_at(at_start, text, 0) > 0;
}

}  // namespace surgery
