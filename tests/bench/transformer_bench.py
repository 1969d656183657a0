"""The transformer's forward and forward+backward against diffusers at the small teacher's size.

    SURGERY_BINARY=build/release/bin/surgery python tests/bench/transformer_bench.py [--threads 2] [--rounds 3]

Both sides with the same threads, in turn, the best of all rounds of each. Prints milliseconds and the ratio (above 1:
this program is faster).
"""
import argparse
import json
import os
import subprocess
import time

import torch
from diffusers import WanTransformer3DModel

OURS = os.environ.get("SURGERY_BINARY", "build/release/bin/surgery")


def ours(threads, batch, repetitions):
    command = [OURS, "bench", "transformer", "--json", f"--run.threads={threads}", "--batch", str(batch), "--repetitions",
               str(repetitions)]
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


def theirs(batch, repetitions):
    model = WanTransformer3DModel(num_layers=10, num_attention_heads=8, attention_head_dim=16, ffn_dim=384, text_dim=128,
                                  in_channels=16, out_channels=16)
    latents, text = torch.randn(batch, 16, 5, 16, 20), torch.randn(batch, 32, 128)
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
    options = options.parse_args()
    torch.set_num_threads(options.threads)
    for batch in (1, 4):
        rounds = [(ours(options.threads, batch, options.repetitions), theirs(batch, options.repetitions))
                  for _ in range(options.rounds)]
        for index, what in enumerate(("forward", "forward+backward")):
            mine, peer = (min(figures[side][index] for figures in rounds) for side in (0, 1))
            print(f"batch {batch}, {options.threads} threads, {what}: ours {1e3 * mine:.1f} ms, diffusers {1e3 * peer:.1f} ms, "
                  f"ratio {peer / mine:.2f}")


if __name__ == "__main__":
    main()
