#pragma once
#include <memory>

#include "parallel/data_parallel.h"
#include "wan/transformer.h"

namespace surgery {

/// Ties a transformer to the engine that holds its parameters (Transformer::parameter_groups): a block's are
/// there while it computes, and the next one's come meanwhile, in forward and in backward. The engine must
/// outlive the hooks.
std::shared_ptr<const GroupHooks> engine_hooks(DataParallel& engine, int64_t blocks);

}  // namespace surgery
