#pragma once
// Precompiled once for every floor: LibTorch's headers cost 20 s alone.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/tensor.h"
