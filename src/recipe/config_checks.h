#pragma once
#include <string>

namespace surgery {

// Checks of single values for the option table. Each returns what is wrong with the text, empty when nothing.

std::string check_not_empty(const std::string& text);
std::string check_resume_word(const std::string& text);  ///< "auto", "must", "never", or a path with a /
std::string check_frames(const std::string& text);       ///< 4k+1: the VAE's clips
std::string check_side(const std::string& text);
std::string check_cells(const std::string& text);   ///< a multiple of 16: VAE stride 8, patch 2
std::string check_rate(const std::string& text);    ///< "2", "linear"
std::string check_rates(const std::string& text);   ///< "2,4,8,linear": each above 1, none twice
std::string check_budget(const std::string& text);  ///< FLOPs, share, or BLOCKSxRRATE
std::string check_pins(const std::string& text);    ///< "0=1,29=linear", empty = none
std::string check_increasing(
    const std::string& text);  ///< "400,600": positive integers, increasing; may be empty
std::string check_buckets(const std::string& text);       ///< "81x480x832,41x480x832"; may be empty
std::string check_shard_sets(const std::string& text);    ///< "own=1,FOLDER=2"; may be empty
std::string check_stall_limits(const std::string& text);  ///< "30", "30,finetune=5"
std::string check_aspect(const std::string& text);        ///< 0, or 1 and more

}  // namespace surgery
