#pragma once
// Precompiled once for every floor: LibTorch's headers cost 20 s alone.
#include <fmt/format.h>
#include <torch/torch.h>

#include <nlohmann/json.hpp>
