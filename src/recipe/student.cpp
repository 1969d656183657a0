#include "recipe/student.h"

#include "base/errors.h"
#include "recipe/artifact.h"
#include "recipe/distill_set.h"
#include "storage/atomic_file.h"

namespace surgery {

Selection require_selection(Recipe& recipe) {
  const std::string expected = selection_fingerprint(recipe);
  const auto path = recipe.run.selection();
  require_file(path, "select");
  Selection selection = parse_selection(read_file(path), path.string(), recipe.teacher_config().num_layers);
  require_fingerprint(path, selection.fingerprint, expected, "select");
  return selection;
}

Transformer make_student(Recipe& recipe, const Selection& selection, Precision precision, bool streamed) {
  const DistillPlan plan = recipe_distill_plan(recipe);
  Transformer student = recipe.load_transformer(precision, streamed);
  bool any = false;
  for (const Rate rate : selection.rates) any = any || !rate.is_full();
  if (!any) return student;
  HybridSettings settings;
  settings.rates = selection.rates;
  settings.phi_degree = plan.feature_map.degree;
  settings.phi_layers = plan.feature_map.layers;
  settings.phi_output_activation = plan.feature_map.output_activation;
  settings.stabilizer = plan.stabilizer;
  const std::string expected = distill_fingerprint(recipe);
  student.make_hybrid(settings, [&](int64_t block) {
    const BlockState state = read_distilled(recipe, block, expected);
    const RateState& rate = state.at(selection.rates[static_cast<size_t>(block)]);
    return unflatten(plan.feature_map, rate.parameters.to(recipe.device).clone());
  });
  return student;
}

std::string student_fingerprint(Recipe& recipe, const Selection& selection) {
  std::string rates;
  for (const Rate rate : selection.rates) rates += rate.name() + " ";
  return make_fingerprint({"student-1", distill_fingerprint(recipe), rates});
}

}  // namespace surgery
