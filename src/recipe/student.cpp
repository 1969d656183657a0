#include "recipe/student.h"

#include "base/errors.h"
#include "recipe/artifact.h"
#include "recipe/distill_set.h"
#include "storage/atomic_file.h"

namespace surgery {

Selection read_selection(Recipe& recipe) {
  const auto path = recipe.run.selection();
  if (!std::filesystem::exists(path)) fail_io("{}: no selection yet: run 'select' first", path.string());
  Selection selection = parse_selection(read_file(path), path.string());
  VALIDATE(static_cast<int64_t>(selection.rates.size()) == recipe.teacher_config().num_layers,
           "{}: {} rates for a model of {} blocks (made for another model): select again", path.string(),
           selection.rates.size(), recipe.teacher_config().num_layers);
  return selection;
}

Transformer make_student(Recipe& recipe, const Selection& selection) {
  const DistillPlan plan = recipe_distill_plan(recipe);
  Transformer student = recipe.teacher().clone();
  student.to(recipe.device, at::kFloat);  // phi was fitted in fp32, and masters are to start from it exactly
  bool any = false;
  for (const Rate rate : selection.rates) any = any || !rate.is_full();
  if (!any) return student;
  HybridSettings settings;
  settings.rates = selection.rates;
  settings.phi_degree = plan.feature_map.degree;
  settings.phi_layers = plan.feature_map.layers;
  settings.phi_output_activation = plan.feature_map.output_activation;
  settings.stabilizer = plan.stabilizer;
  student.make_hybrid(settings, [&](int64_t block) {
    const BlockState state = read_block(recipe.run.block(block));
    for (const RateState& rate : state.rates)
      if (rate.rate == selection.rates[static_cast<size_t>(block)])
        return unflatten(plan.feature_map, rate.parameters.to(recipe.device).clone());
    fail_data("{}: rate {} was not distilled: add it to distill.rates", recipe.run.block(block).string(),
              selection.rates[static_cast<size_t>(block)].name());
  });
  return student;
}

std::string student_fingerprint(Recipe& recipe, const Selection& selection) {
  std::string rates;
  for (const Rate rate : selection.rates) rates += rate.name() + " ";
  return make_fingerprint({"student-1", distill_fingerprint(recipe), rates});
}

}  // namespace surgery
