"""The transformer's forward and forward+backward against diffusers, at the shipped teacher's sizes (or another model's).

    SURGERY_BINARY=build/release/bin/surgery python tests/bench/transformer_bench.py [--threads 2] [--rounds 3] [--model DIR]

Both sides with the same threads, in turn, the best of all rounds of each. Prints milliseconds and the ratio (above 1:
this program is faster).
"""
import argparse
import json
import os
import pathlib
import subprocess
import time

import torch
from diffusers import WanTransformer3DModel

OURS = os.environ.get("SURGERY_BINARY", "build/release/bin/surgery")
TEACHER = pathlib.Path(__file__).resolve().parents[2] / "datasets/shapes/teacher"


def ours(model, threads, batch, repetitions):
    command = [OURS, "bench", "transformer", "--json", f"--model.path={model}", f"--run.threads={threads}", "--batch",
               str(batch), "--repetitions", str(repetitions)]
    result = subprocess.run(command, capture_output=True, text=True, check=True,
                            env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    figures = json.loads(result.stdout)
    return tuple(row["seconds"] for row in figures["transformer"]["rows"])


def best(repetitions, run):
    seconds = []
    for _ in range(repetitions + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def theirs(folder, batch, repetitions):
    model = WanTransformer3DModel.from_config(json.loads((folder / "transformer/config.json").read_text()))
    latents, text = torch.randn(batch, model.config.in_channels, 5, 16, 20), torch.randn(batch, 32, model.config.text_dim)
    timestep = torch.full((batch,), 500.0)

    def forward():
        with torch.no_grad():
            model(latents, timestep, text)

    def training():
        model(latents, timestep, text, return_dict=False)[0].square().mean().backward()
        model.zero_grad()

    return best(repetitions, forward), best(repetitions, training)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--repetitions", type=int, default=10)
    options.add_argument("--model", type=pathlib.Path, default=TEACHER, help="folder whose transformer/config.json is taken")
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    for batch in (1, 4):
        rounds = [(ours(options.model, options.threads, batch, options.repetitions),
                   theirs(options.model, batch, options.repetitions))
                  for _ in range(options.rounds)]
        for index, what in enumerate(("forward", "forward+backward")):
            mine, peer = (min(figures[side][index] for figures in rounds) for side in (0, 1))
            print(f"batch {batch}, {options.threads} threads, {what}: ours {1e3 * mine:.1f} ms, diffusers {1e3 * peer:.1f} ms, "
                  f"ratio {peer / mine:.2f}")


if __name__ == "__main__":
    main()
