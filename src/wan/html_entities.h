#pragma once
#include <string>
#include <string_view>

namespace surgery {

/// Replaces HTML character references as Python's html.unescape does: numeric ones by HTML 5's rules, the
/// named ones of HTML 4 (and apos), those that HTML 5 takes without ';' also so. Later names of HTML 5 stay
/// as they are.
std::string html_unescape(std::string_view text);

/// The cautious form of it that ftfy uses: only references that end with ';', and of these also the names
/// that were put in capitals ("&EACUTE;").
std::string unescape_closed_entities(std::string_view text);

}  // namespace surgery
