#pragma once
#include <filesystem>

#include "recipe/pretrain.h"

namespace surgery {

/// Writes what the teacher depends on to `work`/settings.json before anything else is made there; where an
/// earlier call did so, compares. Error{usage} names every setting that differs, and nothing is changed: a
/// state that goes on with other settings would be a teacher that no settings describe. Threads, device and
/// what is only logged may change from call to call.
void keep_settings(const Pretraining& settings, const std::filesystem::path& work);

}  // namespace surgery
