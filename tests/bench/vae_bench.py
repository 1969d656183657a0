#!/usr/bin/env python3
"""Times the VAE against diffusers' AutoencoderKLWan: the same random weights, clip and number of threads.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/vae_bench.py [--threads N] [--repeat N] [--json]

Both sides work chunk by chunk without gradient, in fp32 on the CPU; the median of the runs is reported, each side after
one run to warm up. Ours includes mapping the weights.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file

# name: (configuration, frames, height, width)
CASES = {
    "small teacher, 17x128x160": (dict(base_dim=8, num_res_blocks=1), 17, 128, 160),
    "base_dim 32, 9x128x160": (dict(base_dim=32, num_res_blocks=2), 9, 128, 160),
    "Wan2.1, 5x128x160": (dict(), 5, 128, 160),
}


def median_seconds(action, repeat):
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(binary, folder, component, tensors, threads, repeat):
    """Median seconds and the output."""
    source, target = folder / "input.safetensors", folder / "output.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, source)
    command = [binary, "forward", "--model", folder, "--component", component, "--input", source, "--output", target,
               "--repeat", repeat, f"--run.threads={threads}"]
    printed = subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True,
                             env=os.environ | {"OMP_NUM_THREADS": str(threads)}).stdout
    return statistics.median(json.loads(printed)["seconds"]), load_file(target)


def measure(binary, case, threads, repeat):
    settings, frames, height, width = CASES[case]
    torch.manual_seed(0)
    model = AutoencoderKLWan(**settings).eval()
    video = torch.rand(1, 3, frames, height, width) * 2 - 1
    latents = model.encode(video).latent_dist.mean
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        model.save_pretrained(folder / "vae")
        for direction, component, inputs, call, output in (
                ("encode", "vae-encode", {"video": video}, lambda: model.encode(video).latent_dist.mean, "mean"),
                ("decode", "vae-decode", {"latents": latents}, lambda: model.decode(latents).sample, "video")):
            seconds, outputs = ours(binary, folder, component, inputs, threads, repeat)
            expected = call()
            error = ((outputs[output] - expected).norm() / expected.norm()).item()
            reference = median_seconds(call, repeat)
            rows.append(dict(case=case, direction=direction, threads=threads, ours=seconds, diffusers=reference,
                             ratio=reference / seconds, relative_error=error))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    with torch.no_grad():
        for case in options.case or CASES:
            rows += measure(os.environ["SURGERY_BINARY"], case, options.threads, options.repeat)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'case':28}{'':8}{'threads':>8}{'ours, s':>10}{'diffusers, s':>14}{'times as fast':>15}{'rel. error':>12}")
    for row in rows:
        print(f"{row['case']:28}{row['direction']:8}{row['threads']:8d}{row['ours']:10.3f}{row['diffusers']:14.3f}"
              f"{row['ratio']:15.2f}{row['relative_error']:12.1e}")


if __name__ == "__main__":
    main()
