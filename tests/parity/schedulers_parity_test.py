"""Schedules and samplers against diffusers' schedulers: alone on fixed velocities, and UniPC with the model in the loop.

Environment: SURGERY_BINARY, the program.
"""
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from measured import agree  # noqa: E402
from transformer_parity_test import CONFIGURATIONS, draw, forward, inputs  # noqa: E402

BINARY = os.environ["SURGERY_BINARY"]
TOLERANCE = 1e-5  # relative L2
DONE, USAGE, DATA = 0, 64, 65
SHAPE = (1, 16, 3, 4, 5)


def run(work, tensors, *options):
    source, target = work / "in.safetensors", work / "out.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source)
    target.unlink(missing_ok=True)
    command = [BINARY, "forward", "--component", "scheduler", "--input", source, "--output", target, *options]
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    return result.returncode, load_file(target) if result.returncode == DONE else result.stderr + result.stdout


def sampled(work, tensors, *options):
    code, outputs = run(work, tensors, *options)
    assert code == DONE, outputs
    return outputs


def velocities(steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"sample": torch.randn(SHAPE, generator=generator),
            "velocities": torch.randn((steps, *SHAPE), generator=generator)}


def unipc(steps, shift):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def walk(scheduler, tensors):
    x, states = tensors["sample"], []
    for t, v in zip(scheduler.timesteps, tensors["velocities"]):
        x = scheduler.step(v, t, x).prev_sample
        states.append(x)
    return torch.stack(states)


@pytest.mark.parametrize("steps, shift", [(1, 3.0), (4, 5.0), (20, 3.0), (50, 3.0), (50, 8.0)])
def test_schedule(steps, shift, tmp_path):
    ours, expected = sampled(tmp_path, velocities(steps), "--shift", shift), unipc(steps, shift)
    assert torch.equal(ours["timesteps"].long(), expected.timesteps)
    assert torch.equal(ours["sigmas"].float(), expected.sigmas)


@pytest.mark.parametrize("steps, shift", [(1, 3.0), (2, 3.0), (3, 3.0), (10, 5.0), (20, 3.0), (50, 3.0)])
def test_unipc_alone(steps, shift, tmp_path):
    tensors = velocities(steps)
    ours = sampled(tmp_path, tensors, "--shift", shift)
    expected = walk(unipc(steps, shift), tensors)
    for step in range(steps):
        agree(ours["samples"][step], expected[step], TOLERANCE)
    assert torch.equal(ours["sample"], ours["samples"][-1])


@pytest.mark.parametrize("steps, shift", [(1, 3.0), (4, 5.0), (50, 3.0), (50, 8.0)])
def test_diffusers_euler_schedule_and_steps(steps, shift, tmp_path):
    tensors = velocities(steps)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    ours = sampled(tmp_path, tensors, "--sampler", "euler", "--schedule", "diffusers-euler", "--shift", shift)
    agree(ours["sigmas"], scheduler.sigmas, 1e-6)
    agree(ours["timesteps"], scheduler.timesteps, 1e-6)
    agree(ours["samples"], walk(scheduler, tensors), TOLERANCE)


@pytest.mark.parametrize("steps", [2, 20, 50])
def test_dpmpp_2m_alone(steps, tmp_path):
    tensors = velocities(steps)
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    scheduler.set_timesteps(steps)
    levels = scheduler.sigmas
    ours = sampled(tmp_path, {**tensors, "sigmas": levels}, "--sampler", "dpm++2m")
    agree(ours["samples"], walk(scheduler, tensors), TOLERANCE)


def test_euler_alone(tmp_path):
    tensors = velocities(12)
    levels = numpy.linspace(1.0, 0.05, 12)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=levels)
    ours = sampled(tmp_path, {**tensors, "sigmas": scheduler.sigmas}, "--sampler", "euler")
    agree(ours["samples"], walk(scheduler, tensors), TOLERANCE)


def test_euler_ancestral_keeps_the_marginal(tmp_path):
    """With the exact velocity of one x0, a state stays (1 - sigma) x0 + sigma e with e of variance 1."""
    generator = torch.Generator().manual_seed(0)
    count, steps = 200_000, 4
    ours = sampled(tmp_path, velocities(steps))
    sigmas = ours["sigmas"]
    state, x0 = torch.randn(count, generator=generator), 0.7
    for step in range(steps - 1):
        sigma = sigmas[step].item()
        state_from = state if step else (1 - sigma) * x0 + sigma * state
        velocity = (state_from - x0) / sigma
        tensors = {"sample": state_from, "velocities": velocity[None], "noise": torch.randn((1, count), generator=generator)}
        # One step of the schedule; the last of a run goes to 0, so it is walked with a second one and read before it.
        tensors["velocities"] = tensors["velocities"].repeat(2, 1)
        tensors["noise"] = tensors["noise"].repeat(2, 1)
        tensors["sigmas"] = torch.tensor([sigma, sigmas[step + 1].item(), 0.0], dtype=torch.float64)
        state = sampled(tmp_path, tensors, "--sampler", "euler-ancestral")["samples"][0]
        target = sigmas[step + 1].item()
        assert abs(state.mean().item() - (1 - target) * x0) < 0.01
        assert abs(state.std().item() - target) < 0.01


def test_euler_ancestral_without_fresh_noise_is_euler(tmp_path):
    tensors = velocities(10)
    plain = sampled(tmp_path, tensors, "--sampler", "euler")
    ours = sampled(tmp_path, tensors, "--sampler", "euler-ancestral", "--eta", 0)
    agree(ours["samples"], plain["samples"], 1e-6)


def test_unipc_with_the_model_in_the_loop(tmp_path):
    steps = 20
    model = draw(CONFIGURATIONS["head-16"])
    model.save_pretrained(tmp_path / "transformer")
    tensors = inputs(model, batch=1)
    ours, expected = tensors["hidden_states"], tensors["hidden_states"]
    scheduler, walked = unipc(steps, 3.0), []
    start = ours
    for t in scheduler.timesteps:
        # Both sides by their own model and their own sampler; ours walks again over all its velocities so far.
        code, v = forward(tmp_path, {**tensors, "hidden_states": ours, "timestep": t[None].float()}, tmp_path)
        assert code == DONE, v
        walked.append(v)
        unseen = [torch.zeros_like(v)] * (steps - len(walked))
        states = sampled(tmp_path, {"sample": start, "velocities": torch.stack(walked + unseen)})["samples"]
        ours = states[len(walked) - 1]
        with torch.no_grad():
            v = model(expected, t[None], tensors["encoder_hidden_states"]).sample
        expected = scheduler.step(v, t, expected).prev_sample
    agree(ours, expected, 1e-3)


@pytest.mark.parametrize("change, options, code, part", [
    (lambda t: t.pop("velocities"), (), DATA, "velocities"),
    (lambda t: t.update(velocities=torch.zeros(3, 2)), (), DATA, "velocities is [3, 2]"),
    (lambda t: t.update(sigmas=torch.tensor([1.0, 0.5, 0.0])), (), DATA, "sigmas is [3]"),
    (lambda t: t.update(sigmas=torch.tensor([0.9, 0.5, 0.6, 0.2, 0.0])), (), DATA, "noise levels"),
    (lambda t: t.update(sigmas=torch.tensor([1.0, 0.8, 0.6, 0.2, 0.0])), (), DATA, "UniPC starts at sigma 1"),
    (lambda t: None, ("--sampler", "euler-ancestral"), DATA, "noise"),
    (lambda t: None, ("--sampler", "heun"), USAGE, "heun"),
    (lambda t: None, ("--shift", "0"), USAGE, "shift"),
    (lambda t: None, ("--shift", "much"), USAGE, "shift"),
])
def test_bad_input(change, options, code, part, tmp_path):
    tensors = velocities(4)
    change(tensors)
    got, message = run(tmp_path, tensors, *options)
    assert got == code, message
    assert part in message
