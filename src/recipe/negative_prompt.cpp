#include "recipe/negative_prompt.h"

#include "base/errors.h"
#include "data/prompts.h"

namespace surgery {

std::string negative_prompt(const std::string& setting) {
  if (!setting.starts_with('@')) return setting;
  const std::string file = setting.substr(1);
  const auto prompts = read_prompts(file);
  VALIDATE(prompts.size() == 1, "{}: holds {} prompts (a negative prompt is one): keep one line", file,
           prompts.size());
  return prompts.front().text;
}

}  // namespace surgery
