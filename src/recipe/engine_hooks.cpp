#include "recipe/engine_hooks.h"

namespace surgery {

std::shared_ptr<const GroupHooks> engine_hooks(DataParallel& engine, int64_t blocks) {
  const auto group = [](int64_t number) { return static_cast<size_t>(number); };
  GroupHooks hooks;
  hooks.before_forward = [&engine, blocks, group](int64_t number) {
    engine.need(group(number));
    const int64_t next = number == blocks ? 0 : number + 1;
    if (next < blocks) engine.prefetch(group(next));
  };
  hooks.after_forward = [&engine, blocks, group](int64_t number) {
    if (number + 1 < blocks) engine.release(group(number));  // backward begins with the last one
  };
  hooks.before_backward = [&engine, blocks, group](int64_t number) {
    if (number + 1 < blocks) engine.release(group(number + 1));
    engine.need(group(number));
    if (number > 0) engine.prefetch(group(number - 1));
  };
  return std::make_shared<const GroupHooks>(std::move(hooks));
}

}  // namespace surgery
