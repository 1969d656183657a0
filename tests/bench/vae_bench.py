#!/usr/bin/env python3
"""Times the VAE against diffusers' AutoencoderKLWan: the same random weights, clip and number of threads.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/vae_bench.py [--case NAME] [--threads N] [--repeat N]
        [--precision bf16] [--tile N --tile-stride N] [--json]

Both sides work chunk by chunk without gradient on the CPU, each in processes of its own that run in turn, so that what
else the machine does falls on both. Seconds are the median of the runs without their first, which warms up; ours include
mapping the weights. Memory is the largest resident size of the process (the kernel's VmHWM): for diffusers that holds
Python and its modules, about 0.4 GiB.
"""
import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
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
    "Wan2.1, 17x240x416": (dict(), 17, 240, 416),  # minutes
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def reference(options):
    """A process of its own: seconds of the calls after the first, on standard output; the last result in a file."""
    torch.set_num_threads(options.threads)
    dtype = DTYPES[options.precision]
    model = AutoencoderKLWan.from_pretrained(options.model, subfolder="vae", torch_dtype=dtype).eval()
    if options.tile:
        model.enable_tiling(*[options.tile] * 2, *[options.tile_stride or options.tile * 3 // 4 // 8 * 8] * 2)
    [tensor] = load_file(options.input).values()
    tensor, seconds = tensor.to(dtype), []
    with torch.no_grad():
        for _ in range(options.repeat + 1):
            start = time.perf_counter()
            if options.reference == "vae-encode":
                output = {"mean": model.encode(tensor).latent_dist.mean}
            else:
                output = {"video": model.decode(tensor).sample}
            seconds.append(time.perf_counter() - start)
    save_file({name: value.float().contiguous() for name, value in output.items()}, options.output)
    print(json.dumps({"seconds": seconds[1:] or seconds}))


def call(command, threads):
    """Seconds and peak bytes of a process that prints {"seconds": [...]}; its whole time where it prints nothing."""
    start = time.perf_counter()
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True,
                               env=os.environ | {"OMP_NUM_THREADS": str(threads), "SURGERY_SINGLE_RANK": "1"})
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    seconds = re.search(r'\{"seconds".*\}', printed)
    seconds = json.loads(seconds.group())["seconds"] if seconds else [time.perf_counter() - start]
    return seconds, 1024 * usage.ru_maxrss


def measure(options, case):
    settings, frames, height, width = CASES[case]
    torch.manual_seed(0)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        AutoencoderKLWan(**settings).save_pretrained(folder / "vae")
        inputs = {"vae-encode": {"video": torch.rand(1, 3, frames, height, width) * 2 - 1},
                  "vae-decode": {"latents": torch.randn(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)}}
        for component, tensors in inputs.items():
            files = {side: folder / f"{side}.safetensors" for side in ("input", "ours", "reference")}
            save_file(tensors, files["input"])
            tiles = ["--tile", options.tile, "--tile-stride", options.tile_stride or options.tile * 3 // 4 // 8 * 8] if options.tile else []
            common = ["--model", folder, "--input", files["input"], "--precision", options.precision, *tiles,
                      "--repeat", options.repeat]
            commands = {
                "ours": [os.environ["SURGERY_BINARY"], "forward", "--component", component, "--output", files["ours"],
                         f"--run.threads={options.threads}", *common],
                "reference": [sys.executable, __file__, "--reference", component, "--output", files["reference"],
                              "--threads", options.threads, *common]}
            seconds, peaks = {side: [] for side in commands}, {side: [] for side in commands}
            for _ in range(options.rounds):
                for side, command in commands.items():
                    of_round, peak = call(command, options.threads)
                    seconds[side] += of_round
                    peaks[side].append(peak)
            result = "mean" if component == "vae-encode" else "video"
            ours, theirs = (load_file(files[side])[result] for side in ("ours", "reference"))
            median = {side: statistics.median(values) for side, values in seconds.items()}
            rows.append(dict(case=case, direction=component, threads=options.threads, precision=options.precision,
                             tile=options.tile, ours=median["ours"], diffusers=median["reference"],
                             ratio=median["reference"] / median["ours"], ours_gib=max(peaks["ours"]) / 2**30,
                             diffusers_gib=max(peaks["reference"]) / 2**30,
                             relative_error=((ours - theirs).norm() / theirs.norm()).item()))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2, help="timed runs of a process, after one to warm up")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in turn")
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--tile-stride", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    for own in ("--reference", "--model", "--input", "--output"):
        parser.add_argument(own, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.reference:
        return reference(options)
    rows = [row for case in options.case or CASES for row in measure(options, case)]
    if options.json:
        return print(json.dumps(rows, indent=1))
    print(f"{'case':28}{'':12}{'threads':>8}{'ours, s':>10}{'diffusers, s':>14}{'times as fast':>15}"
          f"{'ours, GiB':>11}{'diffusers, GiB':>16}{'rel. error':>12}")
    for row in rows:
        print(f"{row['case']:28}{row['direction']:12}{row['threads']:8d}{row['ours']:10.3f}{row['diffusers']:14.3f}"
              f"{row['ratio']:15.2f}{row['ours_gib']:11.2f}{row['diffusers_gib']:16.2f}{row['relative_error']:12.1e}")


if __name__ == "__main__":
    main()
