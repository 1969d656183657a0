#pragma once
#include <string>

namespace surgery {

/// The text that trajectories.negative_prompt or generate.negative_prompt stands for: itself, or the one line
/// of the file behind '@'. Fingerprints hold the text, so that it does not matter how it was given. Error{io}
/// where the file is missing, Error{data} where it holds more than one line or is not UTF-8.
std::string negative_prompt(const std::string& setting);

}  // namespace surgery
