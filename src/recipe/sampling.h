#pragma once
#include <fmt/format.h>

#include <string>

#include "wan/generate.h"

namespace surgery {

/// How a section of the configuration (trajectories, generate) samples.
template <class Section>
SamplingOptions sampling_options(const Section& s) {
  return {.steps = s.steps,
          .guidance = s.guidance,
          .shift = s.shift,
          .kind = parse_sampler(s.sampler),
          .schedule = parse_schedule(s.schedule)};
}

/// The same and the clips' size, as part of a fingerprint; what came later counts only where it is not the
/// default.
template <class Section>
std::string sampling_text(const Section& s) {
  const std::string later = s.schedule == Section{}.schedule ? "" : " " + s.schedule;
  return fmt::format("{} {} {} {} {} {} {}{}", s.frames, s.height, s.width, s.steps, s.guidance, s.shift,
                     s.sampler, later);
}

/// A sampler whose formulas do not hold at a first level of 1 needs a schedule that starts below.
template <class Section>
std::string sampling_fault(const Section& s, const char* section) {
  const Schedule schedule = make_schedule(s.steps, s.shift, parse_schedule(s.schedule));
  if (can_start(parse_sampler(s.sampler), schedule)) return "";
  return fmt::format(
      "{0}.sampler = unipc cannot start at noise level 1, where {0}.schedule = {1} starts: choose the "
      "schedule "
      "diffusers-unipc or wan-unipc",
      section, s.schedule);
}

}  // namespace surgery
