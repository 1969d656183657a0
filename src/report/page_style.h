#pragma once

namespace surgery {

/// The page's style sheet: colours of both themes as variables, then text, tables, charts, videos.
extern const char* const kPageStyle;
/// Starts a row's videos together, so that they can be compared frame by frame.
extern const char* const kVideoScript;

}  // namespace surgery
