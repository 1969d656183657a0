#pragma once
#include <memory>

#include "wan/sampler.h"

namespace surgery {

/// UniPC, order 2, "bh2", predicting x0, corrector from the second step on; first and last step of order 1
/// (Zhao et al. 2023; diffusers' UniPCMultistepScheduler with flow prediction). can_start(unipc, schedule)
/// must hold.
std::unique_ptr<Sampler> make_unipc(const Schedule& schedule);

/// DPM-Solver++ 2M, midpoint form, first and last step of order 1 (Lu et al. 2022; diffusers'
/// DPMSolverMultistepScheduler with flow prediction).
std::unique_ptr<Sampler> make_dpmpp_2m(const Schedule& schedule);

}  // namespace surgery
