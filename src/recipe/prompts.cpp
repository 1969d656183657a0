#include "base/errors.h"
#include "data/shapes.h"
#include "recipe/recipe.h"

namespace surgery {

std::vector<Prompt> recipe_prompts(const std::string& specification, int64_t count,
                                   const std::string& option) {
  std::vector<Prompt> prompts;
  if (specification.starts_with("shapes:")) {
    const auto split = parse_shapes_split(specification);
    if (!split)
      fail_usage("{}: '{}' is none of shapes:train, shapes:distill, shapes:evaluation, or a file", option,
                 specification);
    for (int64_t i = 0; i < (count > 0 ? count : shapes_split_size(*split)); ++i) {
      const std::string caption = shapes_caption(shapes_attributes(*split, i));
      prompts.push_back({caption, caption});
    }
    return prompts;
  }
  prompts = read_prompts(specification);
  if (count > 0 && static_cast<int64_t>(prompts.size()) > count) prompts.resize(static_cast<size_t>(count));
  return prompts;
}

}  // namespace surgery
