#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace surgery {

/// Parses JSON as untrusted input: strict syntax and UTF-8, no key twice in one object (two readers could see
/// two different files), nesting at most `depth_limit` deep. `where` begins the message. Throws Error{data}.
nlohmann::json parse_strict_json(std::string_view text, const std::string& where, int depth_limit = 64);

/// The whole of a JSON file (at most 100 MB), parsed as above. Error{io} if it cannot be read.
nlohmann::json read_json_file(const std::string& path, int depth_limit = 64);

}  // namespace surgery
