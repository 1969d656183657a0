"""The transformer's forward and forward+backward against diffusers, at the shipped teacher's sizes or another model's.

    SURGERY_BINARY=build/release/bin/surgery PYTHON tests/bench/transformer_bench.py [--threads N] [--rounds N]
        [--batch N]... [--model FOLDER] [--layers N]

The same sizes (400 tokens of video, 32 of text, fp32, random weights) and threads, each side in a process of its own, in
turn. Prints the best of all rounds, the ratio (above 1: this program is faster), and the largest resident size of each
process; diffusers' holds Python and its modules, about 0.4 GiB. Wan2.1's own width, of which a few blocks tell as much as all:

    ... transformer_bench.py --model configs/models/wan2.1-t2v-1.3b --layers 4 --batch 1
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from diffusers import WanTransformer3DModel

TEACHER = pathlib.Path(__file__).resolve().parents[2] / "datasets/shapes/teacher"
WORK = ("forward", "forward+backward")


def call(command, threads):
    """What a process printed as JSON, and its peak resident bytes."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": str(threads), "SURGERY_SINGLE_RANK": "1"})
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return json.loads(printed), 1024 * usage.ru_maxrss


def best(repetitions, run):
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def reference(options):
    """A process of its own: prints the seconds of both kinds of work."""
    torch.set_num_threads(options.threads)
    model = WanTransformer3DModel.from_config(json.loads((options.model / "transformer/config.json").read_text()))
    [batch] = options.batch
    latents, text = torch.randn(batch, model.config.in_channels, 5, 16, 20), torch.randn(batch, 32, model.config.text_dim)
    timestep = torch.full((batch,), 500.0)

    def forward():
        with torch.no_grad():
            model(latents, timestep, text)

    def training():
        model(latents, timestep, text, return_dict=False)[0].square().mean().backward()
        model.zero_grad()

    print(json.dumps([best(options.repetitions, forward), best(options.repetitions, training)]))


def with_layers(folder, layers, place):
    """The sizes of a model with another number of blocks."""
    config = json.loads((folder / "transformer/config.json").read_text())
    (place / "transformer").mkdir()
    (place / "transformer/config.json").write_text(json.dumps({**config, "num_layers": layers}))
    return place


def measure(options, model, batch):
    binary = os.environ.get("SURGERY_BINARY", "build/release/bin/surgery")
    ours = [binary, "bench", "transformer", "--json", f"--model.config={model}", f"--run.threads={options.threads}",
            "--batch", batch, "--repetitions", options.repetitions]
    theirs = [sys.executable, __file__, "--reference", "--model", model, "--threads", options.threads, "--batch", batch,
              "--repetitions", options.repetitions]
    seconds, peaks = {"ours": [], "diffusers": []}, {"ours": 0, "diffusers": 0}
    for _ in range(options.rounds):
        for side, command in (("ours", ours), ("diffusers", theirs)):
            figures, peak = call(command, options.threads)
            seconds[side].append([row["seconds"] for row in figures["transformer"]["rows"]] if side == "ours" else figures)
            peaks[side] = max(peaks[side], peak / 2**30)
    rows = []
    for index, what in enumerate(WORK):
        mine, peer = (min(figures[index] for figures in seconds[side]) for side in ("ours", "diffusers"))
        rows.append(dict(batch=batch, threads=options.threads, what=what, ours=mine, diffusers=peer, ratio=peer / mine,
                         ours_gib=peaks["ours"], diffusers_gib=peaks["diffusers"]))
    return rows


def show(rows):
    for row in rows:
        print("batch {batch}, {threads} threads, {what}: ours {ours:.4f} s, diffusers {diffusers:.4f} s, ratio {ratio:.2f}".format(**row))
    print("batch {batch}, peak memory of both: ours {ours_gib:.2f} GiB, diffusers {diffusers_gib:.2f} GiB".format(**rows[-1]))


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--repetitions", type=int, default=10)
    options.add_argument("--batch", type=int, action="append", help="default: 1 and 4")
    options.add_argument("--model", type=pathlib.Path, default=TEACHER, help="folder whose transformer/config.json is taken")
    options.add_argument("--layers", type=int, help="so many blocks instead of the model's")
    options.add_argument("--json", action="store_true")
    options.add_argument("--reference", action="store_true", help=argparse.SUPPRESS)
    options = options.parse_args()
    if options.reference:
        return reference(options)
    with tempfile.TemporaryDirectory() as place:
        model = with_layers(options.model, options.layers, pathlib.Path(place)) if options.layers else options.model
        found = [measure(options, model, batch) for batch in options.batch or (1, 4)]
    if options.json:
        return print(json.dumps([row for rows in found for row in rows], indent=1))
    for rows in found:
        show(rows)


if __name__ == "__main__":
    main()
